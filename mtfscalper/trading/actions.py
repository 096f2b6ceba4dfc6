"""What an agent can do, and when it can do it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mtfscalper.trading.arrays import SCALAR, Array, Namespace


class Action(IntEnum):
    """The five actions, numbered as in FreqAI's ``Base5ActionRLEnv``."""

    NEUTRAL = 0
    LONG_ENTER = 1
    LONG_EXIT = 2
    SHORT_ENTER = 3
    SHORT_EXIT = 4


N_ACTIONS = len(Action)


def valid_actions(side: Array, long_permitted: Array, short_permitted: Array, xp: Namespace) -> tuple[Array, ...]:
    """Which actions the rules accept, one entry for each member of :class:`Action`.

    Neutral always can be done; one exits the side one holds; one enters when flat and permitted.

    :param side: +1 long, -1 short, 0 flat; scalar, array or tensor
    :param long_permitted: whether a long entry is permitted at this candle, same shape
    :param short_permitted: whether a short entry is permitted at this candle, same shape
    :return: five booleans of that shape
    """
    flat = side == 0
    return (
        xp.logical_or(flat, xp.logical_not(flat)),
        xp.logical_and(flat, long_permitted),
        side > 0,
        xp.logical_and(flat, short_permitted),
        side < 0,
    )


def entry_permissions(
    entry_mode: str,
    can_short: bool,
    long_signal: npt.NDArray[np.bool_],
    short_signal: npt.NDArray[np.bool_],
    gates: Sequence[npt.NDArray[np.bool_] | None] = (None, None),
    exits: Sequence[npt.NDArray[np.bool_] | None] = (None, None),
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Where an entry is permitted at the next candle's open.

    :param entry_mode: ``agent`` permits entries everywhere; ``classic`` and ``gated`` where there is a signal
    :param long_signal: signals at the candles' closes, shape (n_candles,), as ``short_signal``
    :param gates: where the strategy lets longs and shorts be entered, None for everywhere
    :param exits: the strategy's own exit signals for longs and shorts: freqtrade enters on none of its side
    :return: permissions of long and short entries, shape (n_candles,)
    """
    if entry_mode == "agent":
        long_signal, short_signal = np.ones_like(long_signal), np.ones_like(short_signal)
    sides = [
        signal & (True if gate is None else gate) & (True if own_exit is None else ~own_exit)
        for signal, gate, own_exit in zip((long_signal, short_signal), gates, exits, strict=True)
    ]
    return sides[0], sides[1] & can_short


def automatic_entry(entry_mode: str, side: int, long_permitted: bool, short_permitted: bool) -> Action | None:
    """The entry that a flat account makes without asking the policy: in ``classic`` mode the signals enter.

    :param side: +1 long, -1 short, 0 flat
    :return: None where there is none
    """
    if entry_mode != "classic" or side != 0 or not (long_permitted or short_permitted):
        return None
    return Action.LONG_ENTER if long_permitted else Action.SHORT_ENTER


class ActionTable(NamedTuple):
    """What becomes of an action that is asked for, looked up by permissions, side and action.

    Every field has shape (4 * 3 * 5,), in the order of :func:`permission_offset`.

    :ivar carried_out: the action that is carried out, a member of :class:`Action`
    :ivar accepted: whether the rules accept what was asked for
    :ivar declined: whether an entry was permitted, and neither asked for nor made
    """

    carried_out: Array
    accepted: Array
    declined: Array

    @classmethod
    def from_entry_mode(cls, entry_mode: str) -> ActionTable:
        """The table as NumPy arrays."""
        cases = [
            _outcome(entry_mode, side, bool(permissions & 1), bool(permissions & 2), action)
            for permissions in range(4)
            for side in (-1, 0, 1)
            for action in Action
        ]
        carried_out, accepted, declined = zip(*cases, strict=True)
        return cls(np.array(carried_out, dtype=np.int64), np.array(accepted), np.array(declined))

    @staticmethod
    def permission_offset(
        long_permitted: npt.NDArray[np.bool_], short_permitted: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.int64]:
        """Where the actions of a flat account begin; those of ``side`` begin ``5 * side`` after it.

        :param long_permitted: of any shape, as ``short_permitted``
        :return: positions of that shape
        """
        return ((long_permitted + 2 * short_permitted) * 3 + 1) * N_ACTIONS


def _outcome(
    entry_mode: str, side: int, long_permitted: bool, short_permitted: bool, asked: Action
) -> tuple[int, bool, bool]:
    automatic = automatic_entry(entry_mode, side, long_permitted, short_permitted)
    if automatic is not None:
        return int(automatic), True, False
    valid = valid_actions(side, long_permitted, short_permitted, SCALAR)
    # An entry without permission is no entry, whoever asks.
    carried_out = asked if valid[asked] else Action.NEUTRAL
    may_enter = valid[Action.LONG_ENTER] or valid[Action.SHORT_ENTER]
    return int(carried_out), valid[asked], asked == Action.NEUTRAL and may_enter
