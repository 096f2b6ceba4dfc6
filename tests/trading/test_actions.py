"""What can be done, and on which candles the policy is asked."""

import numpy as np
import pytest

from mtfscalper.trading.actions import Action, automatic_action, entry_permissions, valid_actions
from mtfscalper.trading.arrays import NUMPY, SCALAR

SIGNALS = np.array([False, True, False, True]), np.array([False, False, True, True])


@pytest.mark.parametrize(
    ("side", "long_permitted", "short_permitted", "valid"),
    [
        (0.0, False, False, {Action.NEUTRAL}),
        (0.0, True, False, {Action.NEUTRAL, Action.LONG_ENTER}),
        (0.0, False, True, {Action.NEUTRAL, Action.SHORT_ENTER}),
        (0.0, True, True, {Action.NEUTRAL, Action.LONG_ENTER, Action.SHORT_ENTER}),
        (1.0, True, True, {Action.NEUTRAL, Action.LONG_EXIT}),
        (1.0, False, False, {Action.NEUTRAL, Action.LONG_EXIT}),
        (-1.0, True, True, {Action.NEUTRAL, Action.SHORT_EXIT}),
        (-1.0, False, False, {Action.NEUTRAL, Action.SHORT_EXIT}),
    ],
)
def test_one_enters_when_flat_and_permitted_and_leaves_the_side_one_holds(
    side: float, long_permitted: bool, short_permitted: bool, valid: set[Action]
) -> None:
    mask = valid_actions(side, long_permitted, short_permitted, SCALAR)
    assert {action for action in Action if mask[action]} == valid


def test_masks_of_a_batch_are_those_of_its_members() -> None:
    sides = np.repeat([0.0, 1.0, -1.0], 4)
    long_permitted, short_permitted = np.tile(SIGNALS[0], 3), np.tile(SIGNALS[1], 3)
    batch = np.stack(valid_actions(sides, long_permitted, short_permitted, NUMPY), axis=1)
    singles = [
        valid_actions(*row, SCALAR)
        for row in zip(sides.tolist(), long_permitted.tolist(), short_permitted.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(batch, singles)


def test_agent_mode_permits_entries_without_a_signal() -> None:
    long_permitted, short_permitted = entry_permissions("agent", True, *SIGNALS)
    assert long_permitted.all()
    assert short_permitted.all()


@pytest.mark.parametrize("entry_mode", ["classic", "gated"])
def test_classic_and_gated_mode_permit_entries_where_there_is_a_signal(entry_mode: str) -> None:
    permitted = entry_permissions(entry_mode, True, *SIGNALS)
    np.testing.assert_array_equal(permitted, SIGNALS)


@pytest.mark.parametrize("entry_mode", ["classic", "gated", "agent"])
def test_no_mode_permits_a_short_without_can_short(entry_mode: str) -> None:
    _, short_permitted = entry_permissions(entry_mode, False, *SIGNALS)
    assert not short_permitted.any()


@pytest.mark.parametrize("entry_mode", ["classic", "gated", "agent"])
def test_the_policy_is_always_asked_inside_a_trade(entry_mode: str) -> None:
    assert automatic_action(entry_mode, False, True, True) is None
    assert automatic_action(entry_mode, False, False, False) is None


@pytest.mark.parametrize(
    ("entry_mode", "long_permitted", "short_permitted", "action"),
    [
        ("gated", False, False, Action.NEUTRAL),
        ("gated", True, False, None),
        ("gated", False, True, None),
        ("agent", True, True, None),
        ("classic", False, False, Action.NEUTRAL),
        ("classic", True, False, Action.LONG_ENTER),
        ("classic", False, True, Action.SHORT_ENTER),
    ],
)
def test_a_flat_account_waits_asks_or_enters_by_its_mode(
    entry_mode: str, long_permitted: bool, short_permitted: bool, action: Action | None
) -> None:
    assert automatic_action(entry_mode, True, long_permitted, short_permitted) == action
