"""The declared columns, and no others."""

import numpy as np
import pandas as pd
import pytest

from mtfscalper.freqai.columns import (
    ACTION_COLUMN,
    EXIT_COLUMN,
    LONG_ENTER_COLUMN,
    PREDICTION_COLUMNS,
    SHORT_ENTER_COLUMN,
    declare_prediction_columns,
)
from mtfscalper.freqai.predictions import prediction_columns
from mtfscalper.policy.closed_loop import FlatDecisions
from mtfscalper.trading.actions import Action

ACTIONS = np.array([0, 1, 2])
FLAT = FlatDecisions(
    np.array([0, 3, 0]),
    np.array([[0.5, 0.3, 0.0, 0.2, 0.0], [0.1, 0.2, 0.0, 0.7, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]], dtype=np.float32),
)
EXIT_PROBABILITY = np.array([0.0, 0.0, 0.9], dtype=np.float32)


def test_each_column_holds_what_its_name_says() -> None:
    frame = prediction_columns(PREDICTION_COLUMNS, ACTIONS, FLAT, EXIT_PROBABILITY)
    assert list(frame.columns) == list(PREDICTION_COLUMNS)
    assert frame[ACTION_COLUMN].tolist() == [Action.NEUTRAL, Action.LONG_ENTER, Action.LONG_EXIT]
    np.testing.assert_allclose(frame[LONG_ENTER_COLUMN], [0.3, 0.2, 0.0], rtol=1e-6)
    np.testing.assert_allclose(frame[SHORT_ENTER_COLUMN], [0.2, 0.7, 0.0], rtol=1e-6)
    np.testing.assert_allclose(frame[EXIT_COLUMN], [0.0, 0.0, 0.9], rtol=1e-6)
    assert set(frame.dtypes) == {np.dtype(np.float64)}


def test_a_column_that_is_not_declared_is_not_returned() -> None:
    frame = prediction_columns([ACTION_COLUMN], ACTIONS, FLAT, EXIT_PROBABILITY)
    assert list(frame.columns) == [ACTION_COLUMN]


def test_a_declared_column_that_no_policy_fills_is_an_error_naming_it_and_the_accepted_ones() -> None:
    with pytest.raises(ValueError, match=r"&-s_close.*accepted: &-action, .*declare_prediction_columns"):
        prediction_columns([ACTION_COLUMN, "&-s_close"], ACTIONS, FLAT, EXIT_PROBABILITY)


def test_the_declared_columns_are_numbers_so_that_a_second_live_prediction_finds_their_mean() -> None:
    frame = declare_prediction_columns(pd.DataFrame({"close": [1.0, 2.0]}))
    assert [name for name in frame.columns if name.startswith("&")] == list(PREDICTION_COLUMNS)
    assert all(pd.api.types.is_float_dtype(frame[name].dtype) for name in PREDICTION_COLUMNS)
