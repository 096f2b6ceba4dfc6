"""A candle that forms shows what has been, and nothing of what comes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtfscalper.offline.candles import Candles
from mtfscalper.offline.forming import formed, forming, known_at, price_path

MINUTES_5, HOUR = 300_000, 3_600_000


@st.composite
def candle(draw: st.DrawFn) -> np.ndarray:
    low = draw(st.floats(1, 100))
    high = low + draw(st.floats(0, 50))
    opened, close = (low + draw(st.floats(0, 1)) * (high - low) for _ in range(2))
    return np.array([opened, max(high, opened, close), min(low, opened, close), close, draw(st.floats(0, 1000))])


def test_the_price_goes_to_the_nearer_extreme_first() -> None:
    assert price_path(np.array([10.0, 11.0, 7.0, 8.0])) == (10, 10, 11, 7, 8)
    assert price_path(np.array([10.0, 13.0, 9.0, 12.0])) == (10, 10, 9, 13, 12)


def test_a_candle_forms_along_the_path() -> None:
    values = np.array([10.0, 13.0, 9.0, 12.0, 100.0])
    expected = {
        0.0: [10, 10, 10, 10, 0],
        0.1: [10, 10, 10, 10, 10],
        0.25: [10, 10, 9.5, 9.5, 25],
        0.4: [10, 10, 9, 9, 40],
        0.55: [10, 11, 9, 11, 55],
        0.7: [10, 13, 9, 13, 70],
        0.85: [10, 13, 9, 12.5, 85],
        1.0: [10, 13, 9, 12, 100],
    }
    for share, parts in expected.items():
        np.testing.assert_allclose(formed(values, share), parts)


@given(values=candle(), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_what_has_formed_only_grows_and_ends_as_the_whole_candle(values: np.ndarray, shares: list[float]) -> None:
    earlier, later = (formed(values, share) for share in shares)
    assert earlier[0] == later[0] == values[0]
    assert later[1] >= earlier[1]
    assert later[2] <= earlier[2]
    for part in (earlier, later):
        assert part[2] <= min(part[0], part[3]) <= max(part[0], part[3]) <= part[1]
        assert values[2] <= part[2] <= part[1] <= values[1]
    np.testing.assert_array_equal(formed(values, 1.0), values)


def hours(seed: int) -> tuple[Candles, Candles]:
    """Two hours of five-minute candles, and the hours that they make."""
    rng = np.random.default_rng(seed)
    edges = np.exp(rng.normal(size=25).cumsum() / 100)
    opens, closes = edges[:-1], edges[1:]
    highs, lows = np.maximum(opens, closes) * 1.002, np.minimum(opens, closes) * 0.997
    fine = np.column_stack([opens, highs, lows, closes, rng.uniform(1, 2, 24)])
    parts = fine.reshape(2, 12, 5)
    long = np.column_stack(
        [parts[:, 0, 0], parts[:, :, 1].max(1), parts[:, :, 2].min(1), parts[:, -1, 3], parts[:, :, 4].sum(1)]
    )
    return (
        Candles(np.arange(24) * MINUTES_5, fine, MINUTES_5),
        Candles(np.arange(2) * HOUR, long, HOUR),
    )


@given(now_ms=st.integers(0, 2 * HOUR - 1))
def test_what_comes_later_changes_nothing(now_ms: int) -> None:
    fine, long = hours(1)
    row = now_ms // MINUTES_5
    other = Candles(fine.open_ms, np.where(np.arange(24)[:, None] > row, 7.0, fine.values), MINUTES_5)
    later_hours = long.values.copy()
    later_hours[now_ms // HOUR + 1 :] = 7.0
    for candles, changed in ((fine, other), (long, long._replace(values=later_hours))):
        known, known_too = (known_at(one, finest, now_ms, 8) for one, finest in ((candles, fine), (changed, other)))
        np.testing.assert_array_equal(known.values, known_too.values)
        assert known.open_ms[-1] <= now_ms


def test_an_hour_is_made_of_its_five_minutes_and_becomes_the_whole_hour() -> None:
    fine, long = hours(2)
    now = forming(long, fine, HOUR + 2 * MINUTES_5)
    assert now is not None
    assert now[0] == fine.values[12, 0]
    assert now[1] == max(*fine.values[12:14, 1], fine.values[14, 0])
    assert now[3] == fine.values[14, 0]
    assert now[4] == pytest.approx(fine.values[12:14, 4].sum())
    np.testing.assert_allclose(forming(long, fine, 2 * HOUR - 1), long.values[1], rtol=1e-4)
    np.testing.assert_array_equal(known_at(long, fine, 2 * HOUR, 8).values, long.values)


def test_an_hour_without_finer_candles_forms_along_its_own_path() -> None:
    _, long = hours(3)
    now = forming(long, long, HOUR + HOUR // 10)
    assert now is not None
    assert now[:4].tolist() == [long.values[1, 0]] * 4


def test_in_a_gap_and_after_the_end_nothing_forms() -> None:
    fine, _ = hours(4)
    gappy = fine._replace(open_ms=np.delete(fine.open_ms, 5), values=np.delete(fine.values, 5, axis=0))
    assert forming(gappy, gappy, 5 * MINUTES_5 + 1) is None
    assert len(known_at(gappy, gappy, 5 * MINUTES_5 + 1, 8).open_ms) == 5
    assert forming(fine, fine, 24 * MINUTES_5) is None
    assert forming(fine, fine, -1) is None
