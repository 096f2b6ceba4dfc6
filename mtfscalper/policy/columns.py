"""The columns that decisions leave in a strategy's frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper.policy.replay import FlatDecisions
from mtfscalper.trading.actions import Action

ACTION_COLUMN = "&-action"
LONG_ENTER_COLUMN = "&-p_long_enter"
SHORT_ENTER_COLUMN = "&-p_short_enter"
EXIT_COLUMN = "&-p_exit"

# What a strategy may declare in set_freqai_targets; the action it must.
PREDICTION_COLUMNS = (ACTION_COLUMN, LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN, EXIT_COLUMN)


def declare_prediction_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Declare every column in ``set_freqai_targets``; a bot's second prediction fails without.

    :return: the same frame, with :data:`PREDICTION_COLUMNS`
    """
    for name in PREDICTION_COLUMNS:
        frame[name] = 0.0
    return frame


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
            "declare only these (mtfscalper.policy.columns.declare_prediction_columns does)"
        )
    return pd.DataFrame({name: values[name] for name in labels})
