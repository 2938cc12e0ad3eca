"""The commit protocol holds against whoever puts things back, in every state of the model, and needs all its rules."""

from dataclasses import fields

import pytest

from tests.forgery.protocol import Faults, explore


def test_every_reachable_state_keeps_every_promise() -> None:
    """The number is known: a model that lost some of its steps would keep every promise too."""
    states, what = explore(Faults())
    assert what is None
    assert states == 40_356


@pytest.mark.parametrize("rule", [field.name for field in fields(Faults)])
def test_without_any_one_rule_a_promise_breaks(rule: str) -> None:
    _, what = explore(Faults(**{rule: True}))
    assert what is not None
