"""Where a run's profit comes from: by exit reason, hour, holding time and pair, and how far its trades went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from mtfscalper.market.tape import MarketTape

# Upper ends of the groups of holding times, in minutes, and their names.
_HOLDING = (
    (15, "under 15 min"),
    (60, "15 min to 1 h"),
    (120, "1 to 2 h"),
    (240, "2 to 4 h"),
    (480, "4 to 8 h"),
    (1440, "8 to 24 h"),
    (np.inf, "a day or longer"),
)
_HOUR_MS = 3_600_000


class Group(NamedTuple):
    """Trades that have something in common.

    :ivar key: what
    :ivar profit: stake currency, after costs
    :ivar classic_profit: of the same entries with classic exits
    :ivar per_trade: mean, as a share of the stake
    :ivar over_classic: mean of what each earned over the same entry with classic exits, as a share of the stake
    """

    key: str
    trades: int
    profit: float
    classic_profit: float
    per_trade: float
    over_classic: float
    win_ratio: float


class Excursion(NamedTuple):
    """How far trades of one exit reason went, as means of shares of the stake, leverage included, before costs.

    :ivar adverse: the worst they stood at before the exit (MAE), negative
    :ivar favourable: the best (MFE)
    :ivar exit: where they were left
    """

    reason: str
    trades: int
    adverse: float
    favourable: float
    exit: float


def breakdowns(trades: pd.DataFrame, classic: pd.DataFrame, timeframe_minutes: int) -> dict[str, list[Group]]:
    """Group a run's trades.

    :param trades: with the columns of :data:`mtfscalper.reporting.trades.COLUMNS`
    :param classic: the same entries with classic exits
    :return: by what they are grouped, ``hour`` being that of the entry (UTC)
    """
    if trades.empty:
        return {name: [] for name in ("reason", "hour", "holding", "pair")}
    minutes = trades["held_candles"].to_numpy() * timeframe_minutes
    holding = np.searchsorted([end for end, _ in _HOLDING], minutes, side="right")
    hours = (trades["open_ms"] // _HOUR_MS % 24).astype(int)
    over = trades["profit_ratio"].to_numpy() - classic["profit_ratio"].to_numpy()
    seen = trades.assign(over_classic=over, classic_profit=classic["profit"].to_numpy())
    return {
        "reason": _groups(seen, trades["exit_reason"], by_size=True),
        "hour": _groups(seen, hours.map("{:02d}".format)),
        "holding": [
            group._replace(key=_HOLDING[int(group.key)][1]) for group in _groups(seen, pd.Series(holding).map(str))
        ],
        "pair": _groups(seen, trades["pair"]),
    }


def _groups(trades: pd.DataFrame, keys: pd.Series[str], *, by_size: bool = False) -> list[Group]:
    groups = [
        Group(
            key=str(key),
            trades=len(found),
            profit=float(found["profit"].sum()),
            classic_profit=float(found["classic_profit"].sum()),
            per_trade=float(found["profit_ratio"].mean()),
            over_classic=float(found["over_classic"].mean()),
            win_ratio=float((found["profit"] > 0).mean()),
        )
        for key, found in trades.groupby(keys.to_numpy())
    ]
    return sorted(groups, key=lambda group: -group.trades) if by_size else groups


def with_excursions(trades: pd.DataFrame, tapes: Mapping[str, MarketTape]) -> pd.DataFrame:
    """The trades with ``mae``, ``mfe`` and ``exit_move``: the worst and best they stood at, and where they were left.

    Shares of the stake before costs. Seen are the candles before that of the exit, whose extremes may lie behind it,
    and the exit's own rate.
    """
    moves = np.zeros((len(trades), 3))
    columns = ("pair", "is_short", "leverage", "open_rate", "close_rate", "open_ms", "close_ms")
    for at, (pair, short, leverage, opened, closed, first_ms, last_ms) in enumerate(
        trades[list(columns)].itertuples(index=False)
    ):
        tape = tapes[pair]
        first, last = np.searchsorted(tape.dates_ms, (first_ms, last_ms))
        low = min(tape.low[first:last].min(initial=closed), opened)
        high = max(tape.high[first:last].max(initial=closed), opened)
        side = -1.0 if short else 1.0
        worst, best = (high, low) if short else (low, high)
        moves[at] = [side * (rate / opened - 1) * leverage for rate in (worst, best, closed)]
    return trades.assign(mae=moves[:, 0], mfe=moves[:, 1], exit_move=moves[:, 2])


def excursions(trades: pd.DataFrame) -> list[Excursion]:
    """Means by exit reason.

    :param trades: of :func:`with_excursions`
    """
    if trades.empty:
        return []
    means = trades.groupby("exit_reason")[["mae", "mfe", "exit_move"]].mean()
    counts = trades["exit_reason"].value_counts()
    return [Excursion(str(reason), int(counts[reason]), *map(float, means.loc[reason])) for reason in counts.index]
