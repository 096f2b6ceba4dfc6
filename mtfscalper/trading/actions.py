"""What an agent can do, and when it can do it."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from mtfscalper.trading.arrays import Namespace


class Action(IntEnum):
    """The five actions, numbered as in FreqAI's ``Base5ActionRLEnv``."""

    NEUTRAL = 0
    LONG_ENTER = 1
    LONG_EXIT = 2
    SHORT_ENTER = 3
    SHORT_EXIT = 4


N_ACTIONS = len(Action)


def valid_actions(side: Any, long_permitted: Any, short_permitted: Any, xp: Namespace) -> tuple[Any, ...]:
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
    entry_mode: str, can_short: bool, long_signal: npt.NDArray[np.bool_], short_signal: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Where an entry is permitted at the next candle's open.

    :param entry_mode: ``agent`` permits entries everywhere; ``classic`` and ``gated`` where there is a signal
    :param long_signal: signals at the candles' closes, shape (n_candles,), as ``short_signal``
    :return: permissions of long and short entries, shape (n_candles,)
    """
    if entry_mode == "agent":
        long_signal, short_signal = np.ones_like(long_signal), np.ones_like(short_signal)
    return long_signal, short_signal & can_short


def automatic_action(entry_mode: str, flat: bool, long_permitted: bool, short_permitted: bool) -> Action | None:
    """The action of a candle on which the policy is not asked, None where it is.

    In a trade it is asked always. When flat it is asked where an entry is permitted, except that in ``classic``
    mode the signals enter by themselves.
    """
    if not flat:
        return None
    if not (long_permitted or short_permitted):
        return Action.NEUTRAL
    if entry_mode == "classic":
        return Action.LONG_ENTER if long_permitted else Action.SHORT_ENTER
    return None
