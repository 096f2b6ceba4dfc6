"""How a policy's trades compare with the same entries ended otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mtfscalper.trading.trades import ClosedTrade
from mtfscalper.training.mean_interval import lower_end, standard_error
from mtfscalper.training.paired_result import PairedResult

_DAY_MS = 86_400_000


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
