"""How a policy's trades compare with the same entries ended otherwise."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mtfscalper.training.mean_interval import lower_end, standard_error
from mtfscalper.training.paired_result import PairedResult

_DAY_MS = 86_400_000


def paired(
    open_ms: npt.NDArray[np.int64],
    policy: npt.NDArray[np.float64],
    classic: npt.NDArray[np.float64],
    max_trade_ms: int,
) -> PairedResult:
    """Compare what entries earned as a policy ended them with what they earn ended otherwise.

    Differences of trades of one day share the market that made them, and classic exits may overlap. They are therefore
    grouped by the day of their entry (in universal time; by as many days as the longest trade takes, where that is more
    than one), and each group counts as one observation. The standard error is the larger of the one over groups and
    the one over trades: where differences within a day happen to cancel out, the first alone would be too sure.

    :param open_ms: when each trade was entered, milliseconds since 1970, shape (n_trades,)
    :param policy: profit ratio of each as the policy ended it, as ``open_ms``
    :param classic: that of the same entry ended by the rules alone, as ``open_ms``
    :param max_trade_ms: the longest duration of a trade
    """
    if not len(open_ms):
        return PairedResult(0, 0, 0.0, 0.0, None)
    differences = policy - classic
    group_ms = -(-max(max_trade_ms, 1) // _DAY_MS) * _DAY_MS
    _, group = np.unique(open_ms // group_ms, return_inverse=True)
    sums, counts = np.bincount(group, differences), np.bincount(group)
    by_trade = standard_error(differences, np.ones(len(differences)))
    error = max(standard_error(sums, counts), by_trade) if len(counts) > 1 else math.nan
    lower = lower_end(float(differences.mean()), error, len(counts))
    return PairedResult(
        trades=len(differences),
        days=len(counts),
        policy_mean=float(policy.mean()),
        classic_mean=float(classic.mean()),
        lower=lower if math.isfinite(lower) else None,
    )
