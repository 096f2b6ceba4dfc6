"""A policy's trades beside the same entries with classic exits, in figures. Read and written without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtfscalper.trading.trades import ClosedTrade
from mtfscalper.training.mean_interval import lower_end, standard_error

# With fewer, nothing is taken for shown, whatever their mean.
ENOUGH_TRADES_TO_JUDGE = 30
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class PairedResult:
    """What a policy earned on trades that chose nothing, beside what their entries earned with classic exits.

    :ivar trades: how many pairs there are
    :ivar days: groups of pairs that were taken for one observation each, see :func:`paired`
    :ivar policy_mean: profit ratio of a trade as the policy ended it, on average
    :ivar classic_mean: that of the same entry with classic exits
    :ivar lower: the lower end of the mean difference, policy less classic; None where there are too few days for one
    """

    trades: int
    days: int
    policy_mean: float
    classic_mean: float
    lower: float | None

    @property
    def difference(self) -> float:
        """What the policy earned more on a trade, on average."""
        return self.policy_mean - self.classic_mean

    @property
    def is_beaten(self) -> bool:
        """Whether the policy beats classic exits: enough trades, and even the lower end of the difference above 0."""
        return self.trades >= ENOUGH_TRADES_TO_JUDGE and self.lower is not None and self.lower > 0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PairedResult:
        """The result whose fields these are.

        :raises TypeError: if one is missing or unknown
        """
        return cls(**values)

    def in_words(self) -> str:
        """The result in one sentence, without a full stop."""
        if not self.trades:
            return "the policy made no trade on the candles that judge: classic exits are not beaten"
        figures = (
            f"{_percent(self.policy_mean)} a trade beside {_percent(self.classic_mean)} for the same entries with "
            f"classic exits, on {self.trades} trades of {self.days} days that chose nothing"
        )
        if self.trades < ENOUGH_TRADES_TO_JUDGE:
            why = f"fewer than {ENOUGH_TRADES_TO_JUDGE} trades count as not beaten"
        elif self.lower is None:
            why = "one day shows no spread: not beaten"
        else:
            beaten = "beaten" if self.is_beaten else "not beaten"
            why = f"lower end of the difference {_percent(self.lower)}: {beaten}"
        return f"{figures}; {why}"


def paired(policy: Sequence[ClosedTrade], classic: Sequence[ClosedTrade], max_trade_ms: int) -> PairedResult:
    """Compare trades with the same entries ended otherwise.

    Differences of trades of one day share the market that made them, and classic exits may overlap. They are therefore
    grouped by the day of their entry (in universal time; by as many days as the longest trade takes, where that is more
    than one), and each group counts as one observation. The standard error is the larger of the one over groups and
    the one over trades: where differences within a day happen to cancel out, the first alone would be too sure.

    :param policy: trades as the policy ended them
    :param classic: the same entries, in the same order, ended by the rules alone
    :param max_trade_ms: the longest duration of a trade
    """
    if not policy:
        return PairedResult(0, 0, 0.0, 0.0, None)
    differences = np.array(
        [ours.profit_ratio - theirs.profit_ratio for ours, theirs in zip(policy, classic, strict=True)]
    )
    group_ms = -(-max(max_trade_ms, 1) // _DAY_MS) * _DAY_MS
    _, group = np.unique([trade.open_ms // group_ms for trade in policy], return_inverse=True)
    sums, counts = np.bincount(group, differences), np.bincount(group)
    by_trade = standard_error(differences, np.ones(len(differences)))
    error = max(standard_error(sums, counts), by_trade) if len(counts) > 1 else math.nan
    lower = lower_end(float(differences.mean()), error, len(counts))
    return PairedResult(
        trades=len(differences),
        days=len(counts),
        policy_mean=float(np.mean([trade.profit_ratio for trade in policy])),
        classic_mean=float(np.mean([trade.profit_ratio for trade in classic])),
        lower=lower if math.isfinite(lower) else None,
    )


def _percent(ratio: float) -> str:
    return f"{ratio:+.3%}"
