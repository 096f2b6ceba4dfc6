"""Candles that are not there: pairs listed late or delisted, missing files, too little history."""

import logging
import shutil
from pathlib import Path

import pandas as pd
import pytest
from freqai_runs import OTHER_PAIR, PAIR, FreqtradeBacktest, Watch, predictions
from freqtrade.exceptions import OperationalException

from mtfscalper.freqai.columns import PREDICTION_COLUMNS

BOTH = {"exchange": {"pair_whitelist": [PAIR, OTHER_PAIR]}}


@pytest.fixture
def datadir(tmp_path: Path, market: Path) -> Path:
    """A copy of the market, to be changed."""
    return Path(shutil.copytree(market, tmp_path / "data"))


def cut(datadir: Path, first: str, last: str, pair: str = OTHER_PAIR) -> None:
    """Leave a pair only the candles of some days."""
    for timeframe in ("5m", "15m", "1h"):
        path = datadir / "futures" / f"{pair.split('/')[0]}_USDT_USDT-{timeframe}-futures.feather"
        frame = pd.read_feather(path)
        kept = frame["date"].between(pd.Timestamp(first, tz="UTC"), pd.Timestamp(last, tz="UTC"), inclusive="left")
        frame[kept].reset_index(drop=True).to_feather(path)


def warnings_of(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and words in record.getMessage()
    ]


@pytest.mark.parametrize("decision_mode", ["replay", "exact"])
def test_a_pair_listed_inside_the_range_decides_nothing_until_it_has_candles_and_stops_nobody(
    tmp_path: Path,
    datadir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    decision_mode: str,
) -> None:
    cut(datadir, "2024-09-05 06:00", "2024-09-10")
    watch = Watch(monkeypatch)
    overlay = {**BOTH, "freqai": {"rl_config": {"entry_mode": "agent", "decision_mode": decision_mode}}}
    run = FreqtradeBacktest(tmp_path, datadir, **overlay)
    rows = run.run()
    # The first period trains on 3 and 4 September, where there is nothing yet, the second on 18 hours, in which ADX of
    # hourly candles has no value.
    assert watch.trained == [PAIR] * 3 + [OTHER_PAIR]
    short, warming_up = warnings_of(caplog, "decides nothing")
    assert f"{OTHER_PAIR} decides nothing (do_predict 0) in 1 of 3 periods" in short
    assert "2024-09-05 00:00 to 2024-09-06 00:00 (0 candles to train on, 4 needed)" in short
    assert f"{OTHER_PAIR} decides nothing (do_predict 0) from 2024-09-06 00:00:00 to 2024-09-07 00:00:00" in warming_up
    assert "its candles begin at 2024-09-05 06:00" in warming_up
    assert "0 of 216 candles to train on have every feature" in warming_up
    assert not warnings_of(caplog, "raised exception")
    assert (rows["do_predict"] == 1).all()
    other = run.frames[OTHER_PAIR]
    last_day = other["date"] >= "2024-09-07"
    assert (~last_day).any()
    assert not other.loc[~last_day, [*PREDICTION_COLUMNS, "do_predict"]].to_numpy().any()
    decided = other[last_day & (other["date"] < "2024-09-08")]
    assert decided["do_predict"].all()
    assert decided[PREDICTION_COLUMNS[0]].any()
    if decision_mode == "exact":
        asked = [
            int(pd.Timestamp(day, tz="UTC").timestamp() * 1000) for day in ("2024-09-06 12:00", "2024-09-07 12:00")
        ]
        assert [run.store.exit_policy(OTHER_PAIR, ms) is not None for ms in asked] == [False, True]


def test_a_delisted_pair_decides_nothing_after_its_end(
    tmp_path: Path, datadir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cut(datadir, "2024-09-01", "2024-09-06 12:00")
    watch = Watch(monkeypatch)
    run = FreqtradeBacktest(tmp_path, datadir, **BOTH, freqai={"rl_config": {"entry_mode": "agent"}})
    run.run()
    assert watch.trained == [PAIR] * 3 + [OTHER_PAIR] * 2
    [warning] = warnings_of(caplog, "decides nothing")
    assert f"{OTHER_PAIR} decides nothing" in warning
    assert "2024-09-07 00:00 to 2024-09-08 00:00 (no candle to decide on)" in warning
    other = run.frames[OTHER_PAIR]
    assert other["date"].max() < pd.Timestamp("2024-09-06 12:00", tz="UTC")
    assert other.loc[other["date"] >= "2024-09-05", "do_predict"].all()
    watch.forget()
    again = FreqtradeBacktest(tmp_path, datadir, **BOTH, freqai={"rl_config": {"entry_mode": "agent"}})
    again.run()
    assert watch.trained == []
    pd.testing.assert_frame_equal(predictions(again.frames[OTHER_PAIR]), predictions(other))


def test_a_pair_whose_every_period_is_short_gets_neutral_columns(
    tmp_path: Path, datadir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cut(datadir, "2024-09-07 12:00", "2024-09-10")
    watch = Watch(monkeypatch)
    run = FreqtradeBacktest(tmp_path, datadir, **BOTH, freqai={"rl_config": {"entry_mode": "agent"}})
    rows = run.run()
    assert watch.trained == [PAIR] * 3
    assert len(warnings_of(caplog, "in 3 of 3 periods")) == 1
    other = run.frames[OTHER_PAIR]
    added = {name for name in rows.columns if name.startswith("&") or name == "do_predict"}
    assert len(added) == 3 * len(PREDICTION_COLUMNS) + 1
    assert added <= set(other.columns)
    assert len(other) == 145
    assert not other[[*PREDICTION_COLUMNS, "do_predict"]].to_numpy().any()
    # freqtrade cuts the first candles off, and leaves the pair out.
    assert len(warnings_of(caplog, f"{OTHER_PAIR} from 2024-09-07 12:00: freqtrade cuts the first")) == 1


def test_too_little_history_is_said_before_the_first_training(
    tmp_path: Path, datadir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pair in (PAIR, OTHER_PAIR):
        cut(datadir, "2024-09-05 02:00", "2024-09-10", pair)
    watch = Watch(monkeypatch)
    run = FreqtradeBacktest(tmp_path, datadir, **BOTH)
    with pytest.raises(OperationalException) as caught:
        run.run()
    assert watch.trained == []
    message = str(caught.value)
    assert message.startswith(f"Too little history: {PAIR} from 2024-09-05 02:00, {OTHER_PAIR} from 2024-09-05 02:00: ")
    assert "accepted: candles of 20240901-20240908; remedy: freqtrade download-data" in message
    assert "--timeframes 5m --timerange 20240901-20240908" in message


@pytest.mark.parametrize("how", ["missing", "empty"])
@pytest.mark.parametrize("pair", [PAIR, OTHER_PAIR])
def test_a_file_of_a_timeframe_without_candles_is_named_before_the_first_training(
    tmp_path: Path, datadir: Path, monkeypatch: pytest.MonkeyPatch, how: str, pair: str
) -> None:
    path = datadir / "futures" / f"{pair.split('/')[0]}_USDT_USDT-15m-futures.feather"
    if how == "missing":
        path.unlink()
    else:
        frame = pd.read_feather(path)
        frame[frame["date"] < "2024-09-01"].reset_index(drop=True).to_feather(path)
    watch = Watch(monkeypatch)
    # Of the pair traded, or of one that features are made of.
    run = FreqtradeBacktest(tmp_path, datadir, freqai={"feature_parameters": {"include_corr_pairlist": [OTHER_PAIR]}})
    with pytest.raises(OperationalException) as caught:
        run.run()
    assert watch.trained == []
    state = "is missing" if how == "missing" else "holds no candles of these days"
    assert str(caught.value).startswith(f"{path} ({pair}, 15m) {state}; accepted: ")
    assert "remedy: freqtrade download-data" in str(caught.value)


def test_candles_that_cannot_be_used_in_a_prediction_end_the_run_as_those_of_a_training(
    tmp_path: Path, datadir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the first training, and so met by a prediction alone."""
    Watch(monkeypatch)
    path = datadir / "futures" / "BTC_USDT_USDT-5m-futures.feather"
    frame = pd.read_feather(path)
    frame.assign(low=frame["low"].mask(frame["date"] == "2024-09-05 12:00", -1.0)).to_feather(path)
    run = FreqtradeBacktest(tmp_path, datadir, freqai={"rl_config": {"entry_mode": "agent"}})
    with pytest.raises(
        OperationalException, match=rf"^Prediction of {PAIR}, period cb_btc_\d+, failed: TapeError: .*low"
    ):
        run.run()


CORRELATED = {
    "freqai": {"rl_config": {"entry_mode": "agent"}, "feature_parameters": {"include_corr_pairlist": [OTHER_PAIR]}}
}


def test_a_younger_correlated_pair_is_named_with_its_features_and_where_they_begin(
    tmp_path: Path, datadir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cut(datadir, "2024-09-03 12:00", "2024-09-10")
    watch = Watch(monkeypatch)
    FreqtradeBacktest(tmp_path, datadir, **CORRELATED).run()
    assert watch.trained == [PAIR] * 3
    # The second period, of 4 and 5 September, loses some rows too: it is told of once.
    [warning] = warnings_of(caplog, "have every feature")
    assert f"{PAIR}: " in warning
    assert "of the 576 candles to train cb_btc_1725494400 on have every feature" in warning
    assert "%-macd-histogram_gen_ETH/USDTUSDT" in warning
    assert "_1h has 25, from 2024-09-04 21:55 on" in warning


def test_a_correlated_pair_without_values_in_a_training_is_named(tmp_path: Path, datadir: Path) -> None:
    cut(datadir, "2024-09-06", "2024-09-10")
    with pytest.raises(OperationalException, match="of the 576 candles to train cb_btc_1725494400") as failure:
        FreqtradeBacktest(tmp_path, datadir, **CORRELATED).run()
    assert "_ETH/USDTUSDT_" in str(failure.value)
    assert "has none" in str(failure.value)
    assert "include_corr_pairlist without pairs that are younger" in str(failure.value)
