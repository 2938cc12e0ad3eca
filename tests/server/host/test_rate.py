"""Rates: a crowd at first, then one after another, each name for itself."""

import pytest

from coffer.server.host import rate
from coffer.server.host.rate import Rates, source_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_was_not_used_is_saved_for_five_seconds() -> None:
    clock = Clock()
    rates = Rates(2, clock)
    assert [rates.allows("a") for _ in range(11)] == [True] * 10 + [False]
    assert rates.allows("b")
    clock.now += 0.5
    assert [rates.allows("a") for _ in range(2)] == [True, False]
    clock.now += 1000
    assert [rates.allows("a") for _ in range(11)] == [True] * 10 + [False]


def test_a_refusal_does_not_put_off_the_next_one() -> None:
    clock = Clock()
    rates = Rates(1, clock, burst_seconds=1)
    assert rates.allows("a")
    assert not any(rates.allows("a") for _ in range(100))
    clock.now += 1
    assert rates.allows("a")


def test_who_does_not_stop_waits_longer_each_time() -> None:
    clock = Clock()
    rates = Rates(4, clock, burst_seconds=0.5)
    assert [rates.wait_seconds("a") for _ in range(5)] == [0, 0, 0.25, 0.5, 0.75]
    clock.now += 0.75
    assert rates.wait_seconds("a") == 0.25


def test_names_are_forgotten_and_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "_MOST", 3)
    rates = Rates(1, Clock(), burst_seconds=1)
    for name in ("a", "b", "c", "a", "d"):
        rates.allows(name)
    assert list(rates._left) == ["c", "a", "d"]


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("worker-7", "worker-7"),
    ],
)
def test_one_source_is_an_address_or_a_network_of_ipv6(host: str, source: str) -> None:
    assert source_of(host) == source
