"""The commit protocol holds in every reachable state of the model, and each of its rules is needed."""

from dataclasses import fields

import pytest

from tests.crash.protocol import Faults, explore


@pytest.mark.parametrize(("studies", "count"), [((1,), 33), ((1, 1), 546), ((1, 2), 590), ((1, 2, 1), 13_956)])
def test_every_reachable_state_keeps_every_promise(studies: tuple[int, ...], count: int) -> None:
    """The number is known: a model that lost some of its steps would keep every promise too."""
    states, what = explore(studies, Faults())
    assert what is None
    assert states == count


@pytest.mark.parametrize("rule", [field.name for field in fields(Faults)])
def test_without_any_one_rule_a_promise_breaks(rule: str) -> None:
    _, what = explore((1, 2, 1), Faults(**{rule: True}))
    assert what is not None
