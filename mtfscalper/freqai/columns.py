"""The columns that decisions leave in a strategy's frame. Imports neither torch nor stable-baselines3."""

from __future__ import annotations

import pandas as pd

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
