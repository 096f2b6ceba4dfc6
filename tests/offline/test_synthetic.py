"""The synthetic market has the statistics it promises, and its files can be trusted."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType

from mtfscalper.artefacts import write_atomically
from mtfscalper.offline import ReplayError
from mtfscalper.offline.price_process import INSTRUMENTS, Regime, funding_rates, mark_candles, market_factor
from mtfscalper.offline.synthetic import (
    DEFAULT_PAIRS,
    DEFAULT_SEED,
    DEFAULT_START,
    DEFAULT_STOP,
    MANIFEST_NAME,
    aggregate,
    generate_market,
    write_market,
)

BTC, ETH = DEFAULT_PAIRS
SHORT_STOP = DEFAULT_START + timedelta(days=3)
REAL_FUTURES = Path(__file__).parents[3] / "shared/data/binance/futures"


@pytest.fixture(scope="module")
def market() -> dict[str, pd.DataFrame]:
    return generate_market()


def log_returns(candles: pd.DataFrame) -> "pd.Series[float]":
    return pd.Series(np.log(candles["close"].to_numpy()), candles.index).diff().dropna()


@pytest.mark.parametrize("pair", DEFAULT_PAIRS)
def test_candles_are_gap_free_and_consistent(market: dict[str, pd.DataFrame], pair: str) -> None:
    candles = market[pair]
    assert candles["date"].iloc[0] == DEFAULT_START
    assert candles["date"].iloc[-1] == DEFAULT_STOP - timedelta(minutes=5)
    assert (candles["date"].diff().dropna() == timedelta(minutes=5)).all()
    assert (candles["low"] <= candles[["open", "close"]].min(axis=1)).all()
    assert (candles["high"] >= candles[["open", "close"]].max(axis=1)).all()
    assert (candles["low"] > 0).all()
    assert (candles["volume"] > 0).all()
    # Wicks exist: most candles reach beyond their body.
    assert (candles["high"] > candles[["open", "close"]].max(axis=1)).mean() > 0.8


@pytest.mark.parametrize("pair", DEFAULT_PAIRS)
def test_prices_lie_on_price_steps_and_open_within_one_of_the_previous_close(
    market: dict[str, pd.DataFrame], pair: str
) -> None:
    candles, decimals = market[pair], INSTRUMENTS[pair].price_decimals
    for column in ("open", "high", "low", "close"):
        np.testing.assert_array_equal(candles[column], candles[column].round(decimals))
    np.testing.assert_array_equal(candles["volume"], candles["volume"].round(3))
    jump = (candles["open"] - candles["close"].shift()).abs().dropna()
    assert jump.max() <= 10.0**-decimals + 1e-9
    assert jump.max() > 0


def test_median_move_of_bitcoin_is_about_six_basis_points(market: dict[str, pd.DataFrame]) -> None:
    assert 5e-4 < log_returns(market[BTC]).abs().median() < 7e-4


@pytest.mark.parametrize("pair", DEFAULT_PAIRS)
def test_volatility_clusters_while_returns_themselves_hardly_correlate(
    market: dict[str, pd.DataFrame], pair: str
) -> None:
    returns = log_returns(market[pair])
    # For independent returns the autocorrelation stays below 2 / sqrt(23,615) = 0.013.
    assert (returns**2).autocorr(1) > 0.05
    assert returns.abs().autocorr(1) > 0.2
    assert returns.abs().autocorr(12) > 0.1
    assert abs(returns.autocorr(1)) < 0.05


@pytest.mark.parametrize("pair", DEFAULT_PAIRS)
def test_returns_have_fat_tails(market: dict[str, pd.DataFrame], pair: str) -> None:
    # pandas gives the excess over the normal distribution's 3.
    assert float(log_returns(market[pair]).kurtosis()) + 3 > 6  # type: ignore[arg-type]


@pytest.mark.parametrize("pair", DEFAULT_PAIRS)
def test_volume_by_hour_falls_into_a_trough_and_climbs_to_the_afternoon_peak(
    market: dict[str, pd.DataFrame], pair: str
) -> None:
    candles = market[pair]
    hourly = candles.groupby(candles["date"].dt.hour)["volume"].mean()
    assert hourly.idxmax() in (13, 14, 15)
    assert hourly.idxmin() in (4, 5, 6)
    assert hourly[0] > 1.2 * hourly[5]
    assert hourly[14] > 2 * hourly[5]


@pytest.mark.parametrize("pair", DEFAULT_PAIRS)
def test_volume_grows_with_the_range_of_the_candle(market: dict[str, pd.DataFrame], pair: str) -> None:
    candles = market[pair]
    candle_range = (candles["high"] - candles["low"]) / candles["close"]
    assert np.corrcoef(np.log(candles["volume"]), np.log(candle_range + 1e-5))[0, 1] > 0.5


def test_pairs_are_correlated_but_not_identical(market: dict[str, pd.DataFrame]) -> None:
    correlation = log_returns(market[BTC]).corr(log_returns(market[ETH]))
    assert 0.6 < correlation < 0.95


def test_regimes_last_hours_to_days_and_drift_in_their_direction(market: dict[str, pd.DataFrame]) -> None:
    candles = market[BTC]
    regimes = market_factor(DEFAULT_SEED, pd.DatetimeIndex(candles["date"])).regimes
    assert all((regimes == regime).mean() > 0.2 for regime in Regime)

    changes = np.flatnonzero(np.diff(regimes)) + 1
    hours = np.diff(np.concatenate(([0], changes))) / 12
    assert hours.min() >= 2
    assert 8 < hours.mean() < 30
    assert hours.max() > 24

    # Basis points an hour: the drift is 15 in the median, and a range has none.
    pace = {regime: 12e4 * log_returns(candles)[regimes[1:] == regime].mean() for regime in Regime}
    assert 8 < pace[Regime.UP_TREND] < 25
    assert -25 < pace[Regime.DOWN_TREND] < -8
    assert abs(pace[Regime.RANGE]) < 5


@pytest.mark.parametrize("timeframe", ["15m", "1h"])
def test_longer_candles_are_exact_aggregations(market: dict[str, pd.DataFrame], timeframe: str) -> None:
    candles = market[BTC]
    size = {"15m": 3, "1h": 12}[timeframe]
    longer = aggregate(candles, timeframe)
    rows = {column: candles[column].to_numpy().reshape(-1, size) for column in ("open", "high", "low", "close")}
    np.testing.assert_array_equal(longer["open"], rows["open"][:, 0])
    np.testing.assert_array_equal(longer["high"], rows["high"].max(axis=1))
    np.testing.assert_array_equal(longer["low"], rows["low"].min(axis=1))
    np.testing.assert_array_equal(longer["close"], rows["close"][:, -1])
    thousandths = (candles["volume"].to_numpy() * 1000).round().astype(np.int64).reshape(-1, size).sum(axis=1)
    np.testing.assert_array_equal((longer["volume"] * 1000).round().astype(np.int64), thousandths)
    np.testing.assert_array_equal(longer["date"], candles["date"].to_numpy()[::size])
    assert (longer.dtypes == candles.dtypes).all()


def test_mark_price_stays_within_basis_points_of_the_futures_price(market: dict[str, pd.DataFrame]) -> None:
    hourly = aggregate(market[BTC], "1h")
    mark = mark_candles(DEFAULT_SEED, BTC, hourly)
    basis = mark["close"] / hourly["close"] - 1
    assert 0.2e-4 < basis.std() < 3e-4
    assert basis.abs().max() < 10e-4
    assert (mark["low"] <= mark[["open", "close"]].min(axis=1)).all()
    assert (mark["high"] >= mark[["open", "close"]].max(axis=1)).all()
    assert (mark["volume"] == 0).all()


def test_funding_is_settled_every_eight_hours_with_the_rate_in_open() -> None:
    hours = pd.date_range(DEFAULT_START, DEFAULT_STOP, freq="h", inclusive="left")
    rates = funding_rates(DEFAULT_SEED, BTC, hours)
    assert len(rates) == 82 * 3
    assert set(rates["date"].dt.hour) == {0, 8, 16}
    assert rates["open"].abs().max() < 0.003
    assert rates["open"].median() == 1e-4
    assert rates["open"].nunique() > 10
    assert (rates[["high", "low", "close", "volume"]] == 0).all(axis=None)


def test_same_seed_gives_the_same_bytes_and_another_seed_another_market(
    market: dict[str, pd.DataFrame],
) -> None:
    again, other = generate_market(DEFAULT_SEED), generate_market(DEFAULT_SEED + 1)
    for pair in DEFAULT_PAIRS:
        assert market[pair]["date"].equals(again[pair]["date"])
        for column in ("open", "high", "low", "close", "volume"):
            assert market[pair][column].to_numpy().tobytes() == again[pair][column].to_numpy().tobytes()
        assert (market[pair]["close"] != other[pair]["close"]).mean() > 0.99


def test_candles_of_a_pair_do_not_depend_on_the_other_pairs(market: dict[str, pd.DataFrame]) -> None:
    pd.testing.assert_frame_equal(generate_market(pairs=[ETH])[ETH], market[ETH])


@pytest.mark.parametrize(
    ("request_", "parts"),
    [
        ({"pairs": ["DOGE/USDT:USDT"]}, ["DOGE/USDT:USDT", "BTC/USDT:USDT"]),
        ({"pairs": [BTC, BTC]}, ["each once"]),
        ({"pairs": []}, ["one or more"]),
        ({"seed": -1}, ["seed", "-1", "0 or more"]),
        ({"start": datetime(2024, 8, 15, 0, 5, tzinfo=UTC)}, ["start", "00:05", "full hour"]),
        ({"stop": DEFAULT_START}, ["at least 8 hours"]),
    ],
)
def test_impossible_requests_are_refused_with_a_remedy(request_: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(ReplayError) as refusal:
        generate_market(**request_)  # type: ignore[arg-type]
    assert all(part in str(refusal.value) for part in parts)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    assert write_market(tmp_path, stop=SHORT_STOP)
    return tmp_path


def test_files_have_freqtrades_names_and_load_through_freqtrade(written: Path) -> None:
    names = {path.name for path in (written / "futures").iterdir()}
    kinds = ("5m-futures", "15m-futures", "1h-futures", "1h-mark", "1h-funding_rate")
    assert names == {f"{coin}_USDT_USDT-{kind}.feather" for coin in ("BTC", "ETH") for kind in kinds}
    assert {path.name for path in written.iterdir()} == {"futures", MANIFEST_NAME}

    handler = get_datahandler(written, "feather")
    candles = handler.ohlcv_load(BTC, "5m", CandleType.FUTURES, fill_missing=False)
    pd.testing.assert_frame_equal(candles, generate_market(stop=SHORT_STOP)[BTC])
    assert len(handler.ohlcv_load(BTC, "1h", CandleType.FUNDING_RATE)) == 9


@pytest.mark.skipif(not REAL_FUTURES.is_dir(), reason=f"real candles are not in {REAL_FUTURES}")
@pytest.mark.parametrize("kind", ["5m-futures", "15m-futures", "1h-futures", "1h-mark", "1h-funding_rate"])
def test_files_have_the_columns_and_dtypes_of_real_ones(written: Path, kind: str) -> None:
    name = f"BTC_USDT_USDT-{kind}.feather"
    synthetic, real = pd.read_feather(written / "futures" / name), pd.read_feather(REAL_FUTURES / name)
    pd.testing.assert_series_equal(synthetic.dtypes, real.dtypes)


def test_market_on_disk_is_reused(written: Path) -> None:
    files = sorted((written / "futures").iterdir())
    before = [path.stat().st_mtime_ns for path in files]
    assert not write_market(written, stop=SHORT_STOP)
    assert [path.stat().st_mtime_ns for path in files] == before


def damage_candles(datadir: Path) -> None:
    path = datadir / "futures" / "ETH_USDT_USDT-5m-futures.feather"
    path.write_bytes(path.read_bytes()[:-100])


def remove_candles(datadir: Path) -> None:
    (datadir / "futures" / "BTC_USDT_USDT-1h-mark.feather").unlink()


def age_generator(datadir: Path) -> None:
    path = datadir / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "generator_version": 0}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (damage_candles, "ETH_USDT_USDT-5m-futures.feather does not match its hash"),
        (remove_candles, "BTC_USDT_USDT-1h-mark.feather is missing"),
        (age_generator, "generator_version is 1"),
    ],
)
def test_market_on_disk_is_rewritten_when_it_differs(
    written: Path, caplog: pytest.LogCaptureFixture, change: object, reason: str
) -> None:
    before = {path.name: path.read_bytes() for path in (written / "futures").iterdir()}
    change(written)  # type: ignore[operator]
    with caplog.at_level(logging.INFO, "mtfscalper"):
        assert write_market(written, stop=SHORT_STOP)
    assert reason in caplog.text
    assert {path.name: path.read_bytes() for path in (written / "futures").iterdir()} == before
    assert not write_market(written, stop=SHORT_STOP)


def test_another_seed_rewrites_and_a_dropped_pair_is_removed(written: Path) -> None:
    assert write_market(written, seed=7, stop=SHORT_STOP, pairs=[BTC])
    assert {path.name.split("_")[0] for path in (written / "futures").iterdir()} == {"BTC"}


def test_candles_of_another_origin_are_never_overwritten(tmp_path: Path) -> None:
    own = tmp_path / "futures" / "BTC_USDT_USDT-5m-futures.feather"
    own.parent.mkdir()
    own.write_bytes(b"somebody's candles")
    with pytest.raises(ReplayError, match="not of the synthetic market"):
        write_market(tmp_path, stop=SHORT_STOP)
    assert own.read_bytes() == b"somebody's candles"


def test_interrupted_first_writing_is_repaired_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_at_eth(path: Path, write: Callable[[Path], None]) -> None:
        if "ETH" in path.name:
            raise KeyboardInterrupt
        write_atomically(path, write)

    with monkeypatch.context() as patch:
        patch.setattr("mtfscalper.offline.synthetic.write_atomically", stop_at_eth)
        with pytest.raises(KeyboardInterrupt):
            write_market(tmp_path, stop=SHORT_STOP)
    assert {path.name.split("_")[0] for path in (tmp_path / "futures").iterdir()} == {"BTC"}
    assert write_market(tmp_path, stop=SHORT_STOP)
    assert not write_market(tmp_path, stop=SHORT_STOP)
