"""The commit protocol holds in every reachable state of the model, and each of its rules is needed."""

from dataclasses import fields

import pytest

from tests.crash.protocol import Faults, explore


@pytest.mark.parametrize("studies", [(1,), (1, 1), (1, 2), (1, 2, 1)])
def test_every_reachable_state_keeps_every_promise(studies: tuple[int, ...]) -> None:
    states, what = explore(studies, Faults())
    assert what is None
    assert states > 10 ** len(studies)


@pytest.mark.parametrize("rule", [field.name for field in fields(Faults)])
def test_without_any_one_rule_a_promise_breaks(rule: str) -> None:
    _, what = explore((1, 2, 1), Faults(**{rule: True}))
    assert what is not None
