"""The slices of history against the naive way to take them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtfscalper.market.lookback import gap_free_segments, range_position

FIVE_MINUTES = 300_000


@given(gaps=st.lists(st.integers(1, 3), max_size=30))
def test_segments_cover_every_candle_and_break_where_one_is_missing(gaps: list[int]) -> None:
    dates = np.cumsum([0, *gaps]).astype(np.int64) * FIVE_MINUTES
    segments = gap_free_segments(dates, FIVE_MINUTES)
    assert [position for start, stop in segments for position in range(start, stop)] == list(range(len(dates)))
    for start, stop in segments:
        assert (np.diff(dates[start:stop]) == FIVE_MINUTES).all()
    for (_, stop), (start, _) in itertools.pairwise(segments):
        assert stop == start
        assert dates[start] - dates[stop - 1] > FIVE_MINUTES


def test_candles_without_a_gap_are_one_segment_and_none_are_no_segment() -> None:
    assert gap_free_segments(np.arange(5) * FIVE_MINUTES, FIVE_MINUTES) == [(0, 5)]
    assert gap_free_segments(np.array([], dtype=np.int64), FIVE_MINUTES) == []


@pytest.mark.parametrize("size", [2, 5, 100])
def test_range_position_looks_at_the_candles_before_the_open_and_at_none_after(size: int) -> None:
    rng = np.random.default_rng(size)
    opens = 100 + rng.normal(0, 1, 60)
    high, low = opens + rng.random(60) / 4, opens - rng.random(60) / 4
    position = range_position(high, low, opens, size)
    for k in range(1, 60):
        before = slice(max(0, k - size), k)
        bottom, top = low[before].min(), high[before].max()
        assert position[k] == pytest.approx(np.clip((opens[k] - bottom) / (top - bottom), 0, 1))
    assert 1 in position[1:]


def test_range_position_without_a_range_is_the_middle() -> None:
    still = np.full(6, 100.0)
    np.testing.assert_array_equal(range_position(still, still, still, 3), np.full(6, 0.5))
    np.testing.assert_array_equal(range_position(still[:1], still[:1], still[:1], 3), [0.5])
