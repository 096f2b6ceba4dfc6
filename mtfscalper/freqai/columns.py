"""The columns that decisions leave in a strategy's frame. Imports neither torch nor stable-baselines3."""

from __future__ import annotations

import pandas as pd

ACTION_COLUMN = "&-action"
LONG_ENTER_COLUMN = "&-p_long_enter"
SHORT_ENTER_COLUMN = "&-p_short_enter"
EXIT_COLUMN = "&-p_exit"

# 1 where the policy has fallen back and the rules end its trades (rl_config.fallback), else 0.
FALLBACK_COLUMN = "&-falls_back"

# What a strategy may declare in set_freqai_targets, and the last beside them; the action it must.
PREDICTION_COLUMNS = (ACTION_COLUMN, LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN, EXIT_COLUMN)
KNOWN_COLUMNS = (*PREDICTION_COLUMNS, FALLBACK_COLUMN)


def declare_prediction_columns(frame: pd.DataFrame, *, fallback: bool = False) -> pd.DataFrame:
    """Declare every column in ``set_freqai_targets``; a bot's second prediction fails without.

    :param fallback: whether :data:`FALLBACK_COLUMN` is among them
    :return: the same frame, with :data:`PREDICTION_COLUMNS`
    """
    for name in KNOWN_COLUMNS if fallback else PREDICTION_COLUMNS:
        frame[name] = 0.0
    return frame
