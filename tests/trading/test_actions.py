"""What can be done, and on which candles the policy is asked."""

import numpy as np
import pytest

from mtfscalper.trading.actions import Action, ActionTable, automatic_entry, entry_permissions, valid_actions
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
    table = ActionTable.from_entry_mode(entry_mode)
    for side, leave in ((1, Action.LONG_EXIT), (-1, Action.SHORT_EXIT)):
        assert automatic_entry(entry_mode, side, True, True) is None
        assert automatic_entry(entry_mode, side, False, False) is None
        for permitted in (False, True):
            place = int(ActionTable.permission_offset(np.bool_(permitted), np.bool_(permitted))) + 5 * side
            asked = [int(table.carried_out[place + action]) for action in Action]
            assert asked == [action if action in (Action.NEUTRAL, leave) else Action.NEUTRAL for action in Action]


@pytest.mark.parametrize(
    ("entry_mode", "long_permitted", "short_permitted", "action"),
    [
        ("gated", False, False, None),
        ("gated", True, False, None),
        ("gated", False, True, None),
        ("agent", True, True, None),
        ("classic", False, False, None),
        ("classic", True, False, Action.LONG_ENTER),
        ("classic", False, True, Action.SHORT_ENTER),
    ],
)
def test_a_flat_account_waits_asks_or_enters_by_its_mode(
    entry_mode: str, long_permitted: bool, short_permitted: bool, action: Action | None
) -> None:
    assert automatic_entry(entry_mode, 0, long_permitted, short_permitted) == action
    table = ActionTable.from_entry_mode(entry_mode)
    place = int(ActionTable.permission_offset(np.bool_(long_permitted), np.bool_(short_permitted)))
    permitted = {Action.LONG_ENTER: long_permitted, Action.SHORT_ENTER: short_permitted}
    for asked in Action:
        possible = asked == Action.NEUTRAL or permitted.get(asked, False)
        expected = action if action is not None else asked if possible else Action.NEUTRAL
        outcome = ActionTable(*(column[place + asked] for column in table))
        assert outcome.carried_out == expected
        assert outcome.accepted == (action is not None or possible)
        assert outcome.declined == (action is None and asked == Action.NEUTRAL and (long_permitted or short_permitted))
