"""What FreqAI's ``predict`` returns: decisions as columns of a strategy's frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper.freqai.columns import ACTION_COLUMN, EXIT_COLUMN, LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN
from mtfscalper.policy.closed_loop import FlatDecisions
from mtfscalper.trading.actions import Action


def prediction_columns(
    labels: Sequence[str],
    actions: npt.NDArray[np.int64],
    flat: FlatDecisions,
    exit_probability: npt.NDArray[np.float32],
) -> pd.DataFrame:
    """The declared columns, one row a candle.

    :param labels: the labels the strategy declares
    :param actions: members of :class:`Action`, shape (n,)
    :param flat: what the policy would do flat, shape (n,)
    :param exit_probability: probability of leaving an open trade, else 0, shape (n,)
    :raises ValueError: for a label that no model here fills
    """
    values = {
        ACTION_COLUMN: actions.astype(np.float64),
        LONG_ENTER_COLUMN: flat.probabilities[:, Action.LONG_ENTER].astype(np.float64),
        SHORT_ENTER_COLUMN: flat.probabilities[:, Action.SHORT_ENTER].astype(np.float64),
        EXIT_COLUMN: exit_probability.astype(np.float64),
    }
    unknown = sorted(set(labels) - set(values))
    if unknown:
        raise ValueError(
            f"the strategy's set_freqai_targets declares {', '.join(unknown)}; accepted: {', '.join(values)}; remedy: "
            "declare only these (mtfscalper.freqai.columns.declare_prediction_columns does)"
        )
    return pd.DataFrame({name: values[name] for name in labels})
