"""The frame a period was made from, kept and compared: the last bits do not count, anything else does."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtfscalper.freqai.computed_frame import TOLERANCE, ComputedFrame, FrameSlice, computed_columns

N_ROWS = 2000
NAMES = ("%-price", "%-return", "classic_long", "&-action")


def computed() -> pd.DataFrame:
    """A price far from zero beside its size, a return near it, a signal and a label."""
    rng = np.random.default_rng(5)
    returns = rng.normal(0, 1e-3, N_ROWS)
    return pd.DataFrame(
        {
            "date": pd.date_range("2024-09-01", periods=N_ROWS, freq="5min", tz="UTC"),
            "%-price": 56000 * np.exp(0.01 * returns.cumsum()),
            "%-return": returns,
            "classic_long": (returns > 2e-3).astype(int),
            "&-action": 0.0,
        }
    )


def kept(frame: pd.DataFrame, path: Path) -> ComputedFrame:
    ComputedFrame.from_rows(frame).save(path / "kept.npz")
    return ComputedFrame.from_file(path / "kept.npz")


def test_only_what_training_and_predictions_read_is_kept() -> None:
    frame = computed().assign(open=1.0, volume=2.0, rsi=3.0)
    assert list(computed_columns(frame).columns) == ["date", *NAMES]


def test_the_same_frame_is_no_difference(tmp_path: Path) -> None:
    assert kept(computed(), tmp_path).difference(computed()) is None


@pytest.mark.parametrize("name", ["%-price", "%-return"])
@pytest.mark.parametrize(("deviations", "differs"), [(0.8 * TOLERANCE, False), (1.2 * TOLERANCE, True)])
def test_the_tolerance_is_counted_in_deviations_of_the_column(
    tmp_path: Path, name: str, deviations: float, differs: bool
) -> None:
    frame = computed()
    changed = frame.copy()
    changed.loc[7, name] += deviations * frame[name].std()
    difference = kept(frame, tmp_path).difference(changed)
    assert (difference is not None) == differs
    if differs:
        assert difference == f"computed {name} (in 1 of {N_ROWS} rows)"


def test_the_last_bits_of_every_row_may_differ(tmp_path: Path) -> None:
    """As those of a rolling sum do that begins a week earlier."""
    frame = computed()
    changed = frame.assign(**{name: frame[name] * (1 + 3e-8) for name in ("%-return",)})
    assert not changed.equals(frame)
    assert kept(frame, tmp_path).difference(changed) is None


def test_one_signal_is_a_difference(tmp_path: Path) -> None:
    frame = computed()
    changed = frame.copy()
    changed.loc[11, "classic_long"] = 1 - changed.loc[11, "classic_long"]
    assert kept(frame, tmp_path).difference(changed) == f"computed classic_long (in 1 of {N_ROWS} rows)"


@pytest.mark.parametrize(("before", "after", "differs"), [(0.0, 0.0, False), (0.0, 1.0, True), (5e-9, 6e-9, True)])
def test_a_column_without_deviation_is_measured_by_its_own_size(
    tmp_path: Path, before: float, after: float, differs: bool
) -> None:
    frame, changed = (computed().assign(**{"&-action": value}) for value in (before, after))
    assert (kept(frame, tmp_path).difference(changed) is not None) == differs


def test_missing_values_count_where_they_come_or_go_and_infinite_ones_are_missing(tmp_path: Path) -> None:
    frame = computed()
    frame.loc[:20, "%-return"] = np.nan
    assert kept(frame, tmp_path).difference(frame.replace({"%-return": {np.nan: np.inf}})) is None
    assert kept(frame, tmp_path).difference(frame.fillna(0.0)) == f"computed %-return (in 21 of {N_ROWS} rows)"
    assert kept(frame.fillna(0.0), tmp_path).difference(frame) == f"computed %-return (in 21 of {N_ROWS} rows)"
    nothing = frame.assign(**{"%-return": np.nan})
    assert kept(nothing, tmp_path).difference(nothing) is None


def test_a_value_far_outside_is_a_difference_and_no_overflow(tmp_path: Path) -> None:
    frame = computed()
    changed = frame.copy()
    changed.loc[3, "%-return"] = 1e30
    assert kept(frame, tmp_path).difference(changed) == f"computed %-return (in 1 of {N_ROWS} rows)"
    assert kept(changed, tmp_path).difference(changed) is None


@pytest.mark.parametrize("outlier", [1e6, 1e9, 1e200])
def test_one_outlier_does_not_hide_what_the_other_rows_are(tmp_path: Path, outlier: float) -> None:
    """A quotient by almost nothing: by the column's own deviation a whole other column would be the same."""
    frame = computed()
    frame.loc[9, "%-return"] = outlier
    then = kept(frame, tmp_path)
    assert then.difference(frame.assign(**{"%-return": frame["%-return"] * (1 + 3e-8)})) is None
    others = frame.assign(**{"%-return": frame["%-return"].to_numpy()[::-1]})
    others.loc[9, "%-return"] = outlier
    assert "computed %-return (in " in (then.difference(others) or "")
    if outlier < 1e90:
        assert then.difference(frame.replace({"%-return": {outlier: 1.01 * outlier}})) is not None


def test_other_columns_another_order_and_other_rows_are_named(tmp_path: Path) -> None:
    frame = computed()
    now = kept(frame, tmp_path)
    renamed = frame.rename(columns={"%-return": "%-yield"})
    assert now.difference(renamed) == "computed columns (%-yield is new, %-return is gone)"
    assert now.difference(frame[["date", *reversed(NAMES)]]) == "computed columns (their order)"
    assert now.difference(frame.iloc[1:]) == f"computed rows ({N_ROWS} then, {N_ROWS - 1} or others now)"


def test_a_slice_holds_the_rows_from_its_start_to_before_its_stop() -> None:
    frame = computed()
    dates = frame["date"]
    cut = FrameSlice(frame, dates[10], dates[20]).cut()
    assert list(cut["date"]) == list(dates[10:20])
