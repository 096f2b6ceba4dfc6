"""The strategy: its signals are those of training, it sees no future, and its callbacks keep the rules."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.freqai import data_kitchen
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.persistence import FtNoDBContext, LocalTrade, Trade, enable_database_use, init_db
from freqtrade.persistence.custom_data import CustomDataWrapper
from freqtrade.plugins.protectionmanager import ProtectionManager
from freqtrade.resolvers import StrategyResolver
from freqtrade.strategy import IStrategy
from freqtrade.wallets import Wallets
from shipped import STRATEGIES

from mtfscalper.market.signals import THRESHOLDS
from mtfscalper.offline.synthetic import DEFAULT_START, aggregate, generate_market
from mtfscalper.settings import RLSettings
from mtfscalper.strategy import (
    ACTION_COLUMN,
    EXIT_COLUMN,
    LONG_ENTER_COLUMN,
    LONG_SIGNAL,
    PREDICTION_COLUMNS,
    PROBABILITY_KEY,
    SHORT_ENTER_COLUMN,
    SHORT_SIGNAL,
    STATE_COLUMNS,
    Action,
    ExitDecision,
)

ROOT = Path(__file__).parents[1]
PAIR, OTHER_PAIR = "BTC/USDT:USDT", "ETH/USDT:USDT"
METADATA = {"pair": PAIR}
MINUTES = {"5m": 5, "15m": 15, "1h": 60}
Candles = dict[str, pd.DataFrame]


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """The project's main config, as freqtrade would hand it over."""
    loaded: dict[str, Any] = json.loads((ROOT / "configs" / "config_rl_hybrid.json").read_text())
    return loaded | {
        "strategy": "MtfScalper_RL_Hybrid",
        "strategy_path": str(STRATEGIES),
        "user_data_dir": tmp_path,
        "timerange": "20240901-20240915",
        "config_files": [str(ROOT / "configs" / "config_rl_hybrid.json")],
    }


def load(config: dict[str, Any], candles: Candles | None = None, **rl: Any) -> Any:
    """The strategy as freqtrade loads it; FreqAI hands back the frame it was given."""
    config["freqai"]["rl_config"] |= rl
    strategy = StrategyResolver.load_strategy(config)
    strategy.ft_load_hyper_params(hyperopt=False)
    strategy.dp = StubDataProvider(candles or {})
    strategy.freqai = SimpleNamespace(start=lambda dataframe, metadata, strategy: dataframe)
    return strategy


class StubDataProvider:
    """Candles by timeframe, as a bot's data provider hands them out."""

    def __init__(self, candles: Candles) -> None:
        self.candles = candles

    def current_whitelist(self) -> list[str]:
        return [PAIR, OTHER_PAIR]

    def get_pair_dataframe(self, pair: str, timeframe: str) -> pd.DataFrame:
        assert pair == PAIR
        return self.candles[timeframe].copy()


@pytest.fixture(scope="module")
def market() -> Candles:
    """Twelve days of the synthetic market."""
    base = generate_market(stop=DEFAULT_START + timedelta(days=12), pairs=(PAIR,))[PAIR]
    return {"5m": base, "15m": aggregate(base, "15m"), "1h": aggregate(base, "1h")}


def with_signals(strategy: Any, candles: Candles) -> pd.DataFrame:
    """What ``populate_indicators`` makes of the candles."""
    strategy.dp.candles = candles
    return strategy.populate_indicators(candles["5m"].copy(), METADATA)


def with_features(strategy: Any, frame: pd.DataFrame, *, live: bool = False) -> pd.DataFrame:
    """What FreqAI makes of the frame that the strategy hands to ``freqai.start``."""
    kitchen = FreqaiDataKitchen(strategy.config, live, PAIR)
    return kitchen.use_strategy_to_populate_indicators(strategy, prediction_dataframe=frame, pair=PAIR)


# ---------------------------------------------------------------------- one function, two paths


@pytest.mark.parametrize("path", ["backtest", "live", "live training"])
def test_signals_of_the_strategy_are_those_freqai_computes(config: dict[str, Any], market: Candles, path: str) -> None:
    strategy = load(config)
    strategy.adx_base.value = 25
    own = with_signals(strategy, market)
    if path == "live training":
        kitchen = FreqaiDataKitchen(config, True, PAIR)
        frames = {timeframe: frame.copy() for timeframe, frame in market.items()}
        inside = kitchen.use_strategy_to_populate_indicators(strategy, base_dataframes=frames, pair=PAIR)
    else:
        inside = with_features(strategy, own, live=path == "live")
    for name in (LONG_SIGNAL, SHORT_SIGNAL):
        assert own[name].sum() > 20
        np.testing.assert_array_equal(inside[name], own[name], err_msg=name)


def test_the_gates_of_the_entries_are_the_signals(config: dict[str, Any], market: Candles) -> None:
    config["freqai"]["enabled"] = False
    strategy = load(config)
    frame = with_signals(strategy, market)
    entered = strategy.advise_entry(frame.copy(), METADATA)
    np.testing.assert_array_equal(entered["enter_long"] == 1, frame[LONG_SIGNAL] == 1)
    np.testing.assert_array_equal(entered["enter_short"] == 1, frame[SHORT_SIGNAL] == 1)
    assert frame[LONG_SIGNAL].sum() > 20


def test_a_hyperopt_value_reaches_signals_in_both_paths(config: dict[str, Any], market: Candles) -> None:
    strategy = load(config)
    before = with_signals(strategy, market)[LONG_SIGNAL].sum()
    strategy.rsi_high.value = 57
    own = with_signals(strategy, market)
    assert 0 < own[LONG_SIGNAL].sum() < before
    np.testing.assert_array_equal(with_features(strategy, own)[LONG_SIGNAL], own[LONG_SIGNAL])


def test_signals_and_their_states_are_no_features(config: dict[str, Any], market: Candles) -> None:
    strategy = load(config)
    frame = with_features(strategy, with_signals(strategy, market))
    assert {LONG_SIGNAL, SHORT_SIGNAL, "mtf_trend_1h"} <= set(frame.columns)
    assert not [name for name in frame.columns if name.startswith("%") and ("mtf_" in name or "classic_" in name)]


# ---------------------------------------------------------------------- closed candles only


def zigzag(timeframe: str, n: int, rises: bool) -> pd.DataFrame:
    """Two steps with the trend, one against it: ADX 33, RSI 67 in a rise, at a price around 100."""
    minutes = MINUTES[timeframe]
    # Ends on a step with the trend.
    steps = np.where(np.arange(n) % 2 == (n - 1) % 2, 0.2, -0.1) * (1 if rises else -1)
    close = 100 + np.cumsum(steps) - steps.sum()
    open_rate = close - steps
    return pd.DataFrame(
        {
            "date": pd.date_range("2024-09-01", periods=n, freq=f"{minutes}min", tz="UTC"),
            "open": open_rate,
            "high": np.maximum(open_rate, close),
            "low": np.minimum(open_rate, close),
            "close": close,
            "volume": 1.0,
        }
    )


@pytest.mark.parametrize(("timeframe", "last_row_before"), [("15m", "10:10"), ("1h", "10:55")])
def test_a_higher_candle_is_seen_first_on_the_row_that_closes_with_it(
    config: dict[str, Any], timeframe: str, last_row_before: str
) -> None:
    """The candle of 10:00 turns the trend: known at 10:15 or 11:00, the close of the rows of 10:10 and 10:55."""
    hours = 3 * 24 + 12
    # 10:00 on the fourth day.
    turn = pd.Timestamp("2024-09-04 10:00", tz="UTC")
    candles = {name: zigzag(name, hours * 60 // minutes, rises=True) for name, minutes in MINUTES.items()}
    turning = zigzag(timeframe, hours * 60 // MINUTES[timeframe], rises=False)
    at = int(turning.index[turning["date"] == turn][0])
    # One candle leaps over everything before it, and what follows goes on rising from there.
    leap = turning.loc[at, "open"] + 10
    turning.loc[at, ["high", "close"]] = leap
    risen = zigzag(timeframe, len(turning), rises=True)
    shift = leap - risen.loc[at, "close"]
    for name in ("open", "high", "low", "close"):
        turning.loc[at + 1 :, name] = risen.loc[at + 1 :, name] + shift
    candles[timeframe] = turning

    strategy = load(config)
    # Only the trend of this timeframe is to decide: the leap upsets its ADX and everyone's ATR is small.
    strategy.adx_middle.value = strategy.adx_high.value = 10
    frame = with_signals(strategy, candles).set_index("date")
    trend = frame[f"mtf_trend_{timeframe}"]
    first_seen = trend.index[trend > 0][0]
    assert first_seen == pd.Timestamp(f"2024-09-04 {last_row_before}", tz="UTC")
    assert (trend[trend.index < first_seen].dropna() < 0).all()
    # Candle and row close at the same moment.
    assert first_seen + pd.Timedelta(minutes=5) == turn + pd.Timedelta(minutes=MINUTES[timeframe])
    # The signal follows on the first row from there that rises.
    signal = frame[LONG_SIGNAL]
    rising = frame.index[(frame["close"] > frame["open"]) & (frame.index >= first_seen)]
    assert signal.idxmax() == rising[0]
    assert signal[rising[0]] == 1

    inside = with_features(strategy, frame.reset_index()).set_index("date")
    assert inside[LONG_SIGNAL].idxmax() == rising[0]
    ema = inside[f"%-ema-9-21_gen_{PAIR}_{timeframe}"]
    assert ema.index[ema > 0][0] == first_seen


# ---------------------------------------------------------------------- no look-ahead


def known_at(candles: Candles, closed: pd.Timestamp) -> Candles:
    """The candles that have closed by a moment."""
    return {
        timeframe: frame[frame["date"] + pd.Timedelta(minutes=MINUTES[timeframe]) <= closed].reset_index(drop=True)
        for timeframe, frame in candles.items()
    }


def another_future(candles: Candles, closed: pd.Timestamp) -> Candles:
    """The same candles, but those that close after a moment are another market's."""
    changed = {}
    for timeframe, frame in candles.items():
        later = frame["date"] + pd.Timedelta(minutes=MINUTES[timeframe]) > closed
        other = frame.copy()
        other.loc[later, ["open", "high", "low", "close"]] *= 1.5
        other.loc[later, "volume"] *= 7
        changed[timeframe] = other
    return changed


def columns_that_know_the_future(
    strategy: Any, candles: Candles, row: int, other: Callable[[Candles, pd.Timestamp], Candles]
) -> set[str]:
    """Columns whose values up to a row change with the candles after it."""
    closed = candles["5m"]["date"][row] + pd.Timedelta(minutes=5)
    frames = []
    for market in (candles, other(candles, closed)):
        signals = with_signals(strategy, market)
        features = with_features(strategy, signals)
        entered = strategy.advise_entry(signals.assign(**{ACTION_COLUMN: 1.0, "do_predict": 1}), METADATA)
        left = strategy.advise_exit(signals.assign(**{ACTION_COLUMN: 2.0, EXIT_COLUMN: 1.0}), METADATA)
        frames.append(
            pd.concat(
                [
                    signals.add_prefix("signals "),
                    features.add_prefix("features "),
                    entered[["enter_long"]],
                    left[["exit_long"]],
                ],
                axis=1,
            ).iloc[: row + 1]
        )
    whole, cut = frames
    assert list(whole.columns) == list(cut.columns)
    assert len(whole) == len(cut) == row + 1
    return {name for name in whole.columns if not whole[name].equals(cut[name])}


# Rows that close in the middle of an hour and of a quarter, with a quarter, with an hour, and just before one.
MOMENTS = ["10:00", "10:10", "10:25", "10:50", "10:55", "23:55"]


def row_at(candles: Candles, moment: str) -> int:
    dates = candles["5m"]["date"]
    return int(dates.index[dates == pd.Timestamp(f"2024-08-24 {moment}", tz="UTC")][0])


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("other", [known_at, another_future])
def test_candles_after_a_row_change_nothing_up_to_it(
    config: dict[str, Any], market: Candles, moment: str, other: Callable[[Candles, pd.Timestamp], Candles]
) -> None:
    assert columns_that_know_the_future(load(config), market, row_at(market, moment), other) == set()


def merge_when_it_opens(
    dataframe: pd.DataFrame, informative: pd.DataFrame, timeframe: str, timeframe_inf: str, **arguments: Any
) -> pd.DataFrame:
    """The classic mistake: an hour is known to every row from its beginning."""
    suffix = arguments.get("suffix") or timeframe_inf
    hourly = informative.add_suffix(f"_{suffix}")
    merged = pd.merge_ordered(
        dataframe, hourly, left_on="date", right_on=f"date_{suffix}", how="left", fill_method="ffill"
    )
    return merged if arguments.get("suffix") else merged.drop(columns=f"date_{suffix}")


def test_the_check_finds_a_strategy_that_merges_candles_when_they_open(
    config: dict[str, Any], market: Candles, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = load(config)
    # freqtrade loads a strategy without registering its module.
    monkeypatch.setitem(
        strategy.populate_indicators.__func__.__globals__, "merge_informative_pair", merge_when_it_opens
    )
    leaks = columns_that_know_the_future(strategy, market, row_at(market, "10:20"), another_future)
    assert {"signals mtf_adx_1h", "signals mtf_rsi_1h", "signals mtf_rsi_15m"} <= leaks
    assert not {name for name in leaks if name.startswith("features %")}


def test_the_check_finds_features_that_are_merged_when_candles_open(
    config: dict[str, Any], market: Candles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_kitchen, "merge_informative_pair", merge_when_it_opens)
    leaks = columns_that_know_the_future(load(config), market, row_at(market, "10:20"), another_future)
    assert f"features %-rsi-period_14_{PAIR}_1h" in leaks
    assert f"features %-return_gen_{PAIR}_15m" in leaks


def test_the_check_finds_an_indicator_that_looks_ahead(
    config: dict[str, Any], market: Candles, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = load(config)
    engineer = strategy.feature_engineering_expand_basic

    def centred(dataframe: pd.DataFrame, metadata: dict[str, Any], **kwargs: Any) -> pd.DataFrame:
        return engineer(dataframe, metadata).assign(**{"%-centred": dataframe["close"].rolling(3, center=True).mean()})

    monkeypatch.setattr(strategy, "feature_engineering_expand_basic", centred)
    leaks = columns_that_know_the_future(strategy, market, row_at(market, "10:25"), another_future)
    assert f"features %-centred_gen_{PAIR}_5m" in leaks


# ---------------------------------------------------------------------- features


def test_an_observation_is_made_of_forty_features_or_more(config: dict[str, Any], market: Candles) -> None:
    strategy = load(config)
    kitchen = FreqaiDataKitchen(config, False, PAIR)
    frame = kitchen.use_strategy_to_populate_indicators(
        strategy, prediction_dataframe=with_signals(strategy, market), pair=PAIR
    )
    kitchen.find_features(frame)
    features = kitchen.training_features_list
    assert len(features) >= 40
    assert len(set(features)) == len(features)
    for timeframe in MINUTES:
        assert sum(name.endswith(f"_{timeframe}") for name in features) >= 12
    # None is a raw price or another scale that moves with it.
    typical = frame[features].iloc[-1000:].abs().max()
    assert typical[typical > 1000].index.tolist() == []


def test_no_feature_is_missing_after_the_start_up_candles(config: dict[str, Any]) -> None:
    strategy = load(config)
    base = generate_market(stop=DEFAULT_START + timedelta(days=20), pairs=(PAIR,))[PAIR]
    start_up = strategy.startup_candle_count
    # freqtrade loads so many candles of each timeframe before the first row of a backtest.
    first = DEFAULT_START + timedelta(hours=start_up)
    market = {}
    for timeframe, minutes in MINUTES.items():
        frame = base if timeframe == "5m" else aggregate(base, timeframe)
        market[timeframe] = frame[frame["date"] >= first - timedelta(minutes=minutes * start_up)].reset_index(drop=True)
    frame = with_features(strategy, with_signals(strategy, market))
    features = [name for name in frame.columns if name.startswith("%")]
    used = frame[frame["date"] >= first]
    assert len(used) > 500
    missing = used[features].isna().sum() + np.isinf(used[features]).sum()
    assert missing[missing > 0].to_dict() == {}
    states = [f"{name}_{timeframe}" for name in STATE_COLUMNS for timeframe in MINUTES]
    assert used[states].notna().all(axis=None)


def test_a_market_that_stands_still_gives_finite_features(config: dict[str, Any], market: Candles) -> None:
    still = {}
    for timeframe, frame in market.items():
        rates = dict.fromkeys(("open", "high", "low", "close"), 100.0)
        still[timeframe] = frame.assign(**rates, volume=0.0)
    strategy = load(config)
    frame = with_features(strategy, with_signals(strategy, still)).iloc[500:]
    features = [name for name in frame.columns if name.startswith("%")]
    bad = frame[features].isna().sum() + np.isinf(frame[features]).sum()
    assert bad[bad > 0].to_dict() == {}
    assert not frame[[LONG_SIGNAL, SHORT_SIGNAL]].any(axis=None)


def test_the_policys_columns_are_declared_as_targets(config: dict[str, Any]) -> None:
    frame = load(config).set_freqai_targets(pd.DataFrame({"close": [1.0, 2.0]}), METADATA)
    assert set(PREDICTION_COLUMNS) <= set(frame.columns)
    assert (frame[list(PREDICTION_COLUMNS)] == 0.0).all(axis=None)


def test_higher_timeframes_of_every_pair_are_asked_for(config: dict[str, Any]) -> None:
    assert sorted(load(config).informative_pairs()) == [
        (PAIR, "15m"),
        (PAIR, "1h"),
        (OTHER_PAIR, "15m"),
        (OTHER_PAIR, "1h"),
    ]


# ---------------------------------------------------------------------- options


def test_protections_are_ones_freqtrade_accepts(config: dict[str, Any]) -> None:
    strategy = load(config)
    manager = ProtectionManager(config, strategy.protections)
    assert manager.name_list == ["StoplossGuard", "MaxDrawdown"]
    ProtectionManager.validate_protections(strategy.protections)


def test_the_plot_shows_columns_that_are_there(config: dict[str, Any], market: Candles) -> None:
    strategy = load(config)
    there = {*with_signals(strategy, market).columns, *PREDICTION_COLUMNS}
    shown = {*strategy.plot_config["main_plot"]}
    for panel in strategy.plot_config["subplots"].values():
        shown |= set(panel)
    assert shown
    assert shown <= there
    assert set(PREDICTION_COLUMNS) <= shown


def test_hyperopt_finds_parameters_for_entries_and_exits(config: dict[str, Any]) -> None:
    strategy = load(config)
    buy = {name for name, _ in strategy.enumerate_parameters("buy")}
    sell = {name for name, _ in strategy.enumerate_parameters("sell")}
    assert buy == {"adx_base", "adx_middle", "adx_high", "rsi_low", "rsi_high", "atr_ratio_min"}
    assert sell == {"exit_probability_min", "duration_share", "breakeven_trigger"}


def test_defaults_of_the_parameters_are_the_signals_own(config: dict[str, Any]) -> None:
    strategy = load(config)
    assert (strategy.adx_base.value, strategy.adx_middle.value, strategy.adx_high.value) == THRESHOLDS.adx_min
    assert (strategy.rsi_low.value, strategy.rsi_high.value) == THRESHOLDS.rsi_long
    assert strategy.atr_ratio_min.value == THRESHOLDS.atr_ratio_min


def test_leverage_is_the_strategys_within_the_exchanges(config: dict[str, Any]) -> None:
    strategy = load(config)
    asked = {"pair": PAIR, "current_time": datetime.now(UTC), "current_rate": 1.0, "proposed_leverage": 7.0}
    asked |= {"entry_tag": None, "side": "long"}
    assert strategy.leverage(**asked, max_leverage=20.0) == 1.0
    strategy.leverage_used = 5.0
    assert strategy.leverage(**asked, max_leverage=20.0) == 5.0
    assert strategy.leverage(**asked, max_leverage=3.0) == 3.0


# ---------------------------------------------------------------------- entries and exits from columns

LONG_STATE = dict(zip(STATE_COLUMNS, (1.0, 30.0, 60.0, 1.0, 0.002, 1.0), strict=True))
SHORT_STATE = dict(zip(STATE_COLUMNS, (-1.0, 30.0, 40.0, -1.0, 0.002, -1.0), strict=True))
NO_STATE = dict.fromkeys(STATE_COLUMNS, 0.0)
LONG, SHORT, LEAVE_LONG, LEAVE_SHORT = Action.LONG_ENTER, Action.SHORT_ENTER, Action.LONG_EXIT, Action.SHORT_EXIT


def frame_of(*rows: tuple[dict[str, float], int, int]) -> pd.DataFrame:
    """Rows of (state of all timeframes, action, do_predict), as FreqAI hands them back."""
    return pd.DataFrame(
        {f"{name}_{timeframe}": state[name] for name in STATE_COLUMNS for timeframe in MINUTES}
        | {
            "date": pd.Timestamp("2024-09-01", tz="UTC") + pd.Timedelta(minutes=5 * index),
            ACTION_COLUMN: float(action),
            LONG_ENTER_COLUMN: 0.5,
            SHORT_ENTER_COLUMN: 0.5,
            EXIT_COLUMN: 0.5,
            "do_predict": trusted,
            "volume": 1.0,
        }
        for index, (state, action, trusted) in enumerate(rows)
    )


ENTRIES = frame_of(
    (LONG_STATE, LONG, 1),
    (SHORT_STATE, SHORT, 1),
    (NO_STATE, LONG, 1),
    (NO_STATE, SHORT, 1),
    (LONG_STATE, SHORT, 1),
    (SHORT_STATE, LONG, 1),
    (LONG_STATE, Action.NEUTRAL, 1),
    (SHORT_STATE, LEAVE_LONG, 1),
    (LONG_STATE, LONG, 0),
    (SHORT_STATE, SHORT, 2),
)


def entered(frame: pd.DataFrame) -> list[str]:
    """One letter a row: L enters long, S short, a dot neither."""
    sides = []
    for _, row in frame.iterrows():
        long, short = (row.get(name, 0) == 1 for name in ("enter_long", "enter_short"))
        sides.append("both" if long and short else "L" if long else "S" if short else ".")
    return sides


@pytest.mark.parametrize("entry_mode", ["classic", "gated"])
def test_the_policys_entries_need_the_signal_of_their_side(config: dict[str, Any], entry_mode: str) -> None:
    frame = load(config, entry_mode=entry_mode).advise_entry(ENTRIES.copy(), METADATA)
    assert entered(frame) == ["L", "S", ".", ".", ".", ".", ".", ".", ".", "."]
    assert frame["enter_tag"].tolist()[:3] == ["rl_signal", "rl_signal", ""]


def test_the_agent_enters_without_signals(config: dict[str, Any]) -> None:
    frame = load(config, entry_mode="agent").advise_entry(ENTRIES.copy(), METADATA)
    assert entered(frame) == ["L", "S", "L", "S", "S", "L", ".", ".", ".", "."]
    assert frame["enter_tag"].tolist()[2] == "rl_agent"


def test_without_freqai_every_signal_enters(config: dict[str, Any]) -> None:
    config["freqai"]["enabled"] = False
    policy_columns = [ACTION_COLUMN, LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN, EXIT_COLUMN, "do_predict"]
    frame = load(config).advise_entry(ENTRIES.drop(columns=policy_columns), METADATA)
    assert entered(frame) == ["L", "S", ".", ".", "L", "S", "L", "S", "L", "S"]
    assert frame["enter_tag"].tolist()[0] == "classic"


@pytest.mark.parametrize("enabled", [True, False])
def test_candles_without_volume_are_entered_as_training_enters_them(config: dict[str, Any], enabled: bool) -> None:
    config["freqai"]["enabled"] = enabled
    with_volume, without = (load(config).advise_entry(ENTRIES.assign(volume=volume), METADATA) for volume in (1.0, 0.0))
    columns = ["enter_long", "enter_short"]
    assert with_volume[columns].fillna(0).to_numpy().any()
    pd.testing.assert_frame_equal(with_volume[columns], without[columns])


EXITS = frame_of(
    (NO_STATE, LEAVE_LONG, 1),
    (NO_STATE, LEAVE_SHORT, 1),
    (LONG_STATE, LONG, 1),
    (SHORT_STATE, Action.NEUTRAL, 1),
    (LONG_STATE, LEAVE_LONG, 1),
)


def left(frame: pd.DataFrame) -> list[tuple[bool, bool]]:
    return [tuple(row.get(name, 0) == 1 for name in ("exit_long", "exit_short")) for _, row in frame.iterrows()]


@pytest.mark.parametrize("entry_mode", ["classic", "gated", "agent"])
def test_the_policys_exits_are_carried_out_whatever_the_entry_mode(config: dict[str, Any], entry_mode: str) -> None:
    frame = load(config, entry_mode=entry_mode).advise_exit(EXITS.copy(), METADATA)
    none = (False, False)
    assert left(frame) == [(True, False), (False, True), none, none, (True, False)]


def test_an_exit_less_probable_than_asked_is_not_carried_out(config: dict[str, Any]) -> None:
    strategy = load(config)
    strategy.exit_probability_min.value = 0.6
    frame = EXITS.copy()
    none = (False, False)
    frame[EXIT_COLUMN] = [0.59, 0.6, 1.0, 1.0, 0.7]
    assert left(strategy.advise_exit(frame.copy(), METADATA)) == [none, (False, True), none, none, (True, False)]
    frame[EXIT_COLUMN] = [0.6, 0.59, 1.0, 1.0, 0.1]
    assert left(strategy.advise_exit(frame, METADATA)) == [(True, False), none, none, none, none]


def test_without_freqai_a_turn_of_the_base_trend_leaves(config: dict[str, Any]) -> None:
    config["freqai"]["enabled"] = False
    frame = EXITS.drop(columns=[ACTION_COLUMN, EXIT_COLUMN, "do_predict"])
    none = (False, False)
    assert left(load(config).advise_exit(frame, METADATA)) == [none, none, (False, True), (True, False), (False, True)]


def test_with_freqai_wrong_settings_are_refused_before_any_candle_is_loaded(config: dict[str, Any]) -> None:
    with pytest.raises(OperationalException, match=r"freqai\.rl_config\.n_envs is 0; accepted: "):
        load(config, n_envs=0)


def test_without_freqai_neither_freqai_nor_its_settings_are_touched(config: dict[str, Any], market: Candles) -> None:
    config["freqai"] = {"enabled": False, "rl_config": {"n_env": 8}}
    strategy = load(config)
    strategy.freqai = None
    frame = strategy.ft_advise_signals(with_signals(strategy, market), METADATA)
    assert (frame["enter_long"] == 1).sum() > 20
    assert (frame["exit_long"] == 1).sum() > 20


def test_a_config_without_freqai_trades_the_signals(config: dict[str, Any], market: Candles) -> None:
    del config["freqai"]
    strategy = StrategyResolver.load_strategy(config)
    strategy.dp = StubDataProvider(market)
    frame = strategy.ft_advise_signals(with_signals(strategy, market), METADATA)
    assert (frame["enter_short"] == 1).sum() > 20
    assert strategy.max_trade_duration_candles == RLSettings().max_trade_duration_candles


def test_without_freqai_its_section_counts_unless_it_is_another_models(config: dict[str, Any]) -> None:
    config["freqai"]["enabled"] = False
    assert load(config, max_trade_duration_candles=12).max_trade_duration_candles == 12
    assert load(config, of_another_model=1).rl_settings == RLSettings()
    del config["freqai"]["rl_config"]["of_another_model"]
    config["freqai"]["enabled"] = True
    strategy = load(config, max_trade_duration_candles=12, entry_mode="agent")
    assert (strategy.max_trade_duration_candles, strategy.rl_settings.entry_mode) == (12, "agent")


def test_the_strategy_imports_from_the_door_for_strategies_alone() -> None:
    tree = ast.parse((ROOT / "strategies" / "MtfScalper_RL_Hybrid.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name for name in imported if name.startswith("mtfscalper")} == {"mtfscalper.strategy"}


@pytest.mark.parametrize("module", ["mtfscalper.strategy", "mtfscalper.freqai.columns"])
def test_what_strategies_import_needs_no_torch(module: str) -> None:
    script = (
        f"import sys, {module}; print(sorted({{'torch', 'stable_baselines3', 'sb3_contrib'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------- the longest trade


OPENED = datetime(2024, 9, 2, 10, 0, tzinfo=UTC)


def custom_exit(strategy: Any, opened: datetime, now: datetime, decision: ExitDecision | None = None) -> Any:
    if strategy.trade_decisions is not None:
        strategy.trade_decisions.decide = lambda *_: decision
    trade = LocalTrade(**a_trade(PAIR, None) | {"id": 1, "open_date": opened})
    with FtNoDBContext("5m"):
        reason = strategy.custom_exit(PAIR, trade, now, 100.0, 0.0)
        # What was probable is told apart from the reason, which is one row in freqtrade's tables.
        noted = trade.get_custom_data(PROBABILITY_KEY)
        CustomDataWrapper.reset_custom_data()
    assert noted == (decision.probability if reason == "rl_exit" else None)
    return reason


@pytest.mark.parametrize("candles", [1, 96])
def test_a_trade_is_left_at_the_open_on_which_it_reaches_its_longest_duration(
    config: dict[str, Any], candles: int
) -> None:
    strategy = load(config, max_trade_duration_candles=candles)
    longest = timedelta(minutes=5 * candles)
    assert custom_exit(strategy, OPENED, OPENED) is None
    assert custom_exit(strategy, OPENED, OPENED + longest - timedelta(minutes=5)) is None
    assert custom_exit(strategy, OPENED, OPENED + longest) == "max_duration"
    assert custom_exit(strategy, OPENED, OPENED + longest + timedelta(minutes=5)) == "max_duration"


def test_a_live_trade_counts_its_candles_from_the_one_it_was_filled_in(config: dict[str, Any]) -> None:
    strategy = load(config)
    filled = OPENED + timedelta(minutes=3, seconds=12)
    open_of_the_last = OPENED + timedelta(minutes=5 * 96)
    assert custom_exit(strategy, filled, open_of_the_last - timedelta(seconds=1)) is None
    assert custom_exit(strategy, filled, open_of_the_last + timedelta(seconds=2)) == "max_duration"


def test_the_longest_duration_counts_candles_of_the_configs_timeframe(config: dict[str, Any]) -> None:
    config["timeframe"] = "3m"
    strategy = load(config, max_trade_duration_candles=2)
    assert custom_exit(strategy, OPENED, OPENED + timedelta(minutes=3)) is None
    assert custom_exit(strategy, OPENED, OPENED + timedelta(minutes=6)) == "max_duration"


def decided(probability: float, profit: float = 0.0, best_profit: float = 0.0) -> ExitDecision:
    return ExitDecision(probability > 0.5, probability, profit, best_profit, held_candles=3)


def test_a_trade_is_left_when_the_policy_prefers_to(config: dict[str, Any]) -> None:
    strategy = load(config)
    now = OPENED + timedelta(minutes=15)
    assert custom_exit(strategy, OPENED, now, decided(0.834)) == "rl_exit"
    assert custom_exit(strategy, OPENED, now, decided(0.4)) is None
    # Its decision comes before the longest duration, as in training.
    late = OPENED + timedelta(hours=9)
    assert custom_exit(strategy, OPENED, late, decided(0.9)) == "rl_exit"
    assert custom_exit(strategy, OPENED, late, decided(0.1)) == "max_duration"


@pytest.mark.parametrize(("least", "left"), [(0.3, [False, True, True]), (0.8, [False, False, True])])
def test_the_least_probability_of_an_exit_replaces_the_preference(
    config: dict[str, Any], least: float, left: list[bool]
) -> None:
    strategy = load(config)
    strategy.exit_probability_min.value = least
    now = OPENED + timedelta(minutes=15)
    exits = [custom_exit(strategy, OPENED, now, decided(probability)) for probability in (0.29, 0.6, 0.8)]
    assert [reason is not None for reason in exits] == left


def test_a_gain_that_is_gone_is_left_where_the_rule_says_so(config: dict[str, Any]) -> None:
    strategy = load(config)
    now = OPENED + timedelta(minutes=15)
    gone = decided(0.1, profit=-0.001, best_profit=0.012)
    assert custom_exit(strategy, OPENED, now, gone) is None
    strategy.breakeven_trigger.value = 0.01
    assert custom_exit(strategy, OPENED, now, gone) == "breakeven"
    assert custom_exit(strategy, OPENED, now, gone._replace(profit=0.002)) is None
    assert custom_exit(strategy, OPENED, now, gone._replace(best_profit=0.009)) is None


def test_a_share_of_the_longest_duration_can_be_set(config: dict[str, Any]) -> None:
    strategy = load(config)
    strategy.duration_share.value = 0.25
    assert custom_exit(strategy, OPENED, OPENED + timedelta(minutes=5 * 23)) is None
    assert custom_exit(strategy, OPENED, OPENED + timedelta(minutes=5 * 24)) == "max_duration"


def test_in_replay_mode_nobody_is_asked(config: dict[str, Any]) -> None:
    strategy = load(config, decision_mode="replay")
    assert strategy.trade_decisions is None
    assert custom_exit(strategy, OPENED, OPENED + timedelta(minutes=15)) is None


# ---------------------------------------------------------------------- no entry in the candle of an exit


def a_trade(pair: str, closed: datetime | None) -> dict[str, Any]:
    values: dict[str, Any] = {"pair": pair, "open_date": OPENED - timedelta(hours=3), "open_rate": 100.0, "amount": 0.1}
    values |= {"stake_amount": 10.0, "fee_open": 0.0005, "fee_close": 0.0005, "exchange": "binance", "leverage": 1.0}
    if closed is not None:
        values |= {"close_date": closed, "close_rate": 101.0, "is_open": False}
    return values


@pytest.fixture(params=["backtest", "live"])
def add_trade(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Where trades are kept: in memory in a backtest, in a database live."""
    if request.param == "backtest":
        with FtNoDBContext("5m"):
            Trade.reset_trades()
            yield lambda pair, closed=None: LocalTrade.add_bt_trade(LocalTrade(**a_trade(pair, closed)))
            Trade.reset_trades()
        return
    # A backtest before may have switched it off.
    enable_database_use()
    init_db("sqlite://")

    def add(pair: str, closed: datetime | None = None) -> None:
        Trade.session.add(Trade(**a_trade(pair, closed)))
        Trade.commit()
        # Dates come back from a database as they do after a restart: without a time zone.
        Trade.session.expire_all()

    yield add
    Trade.session.remove()


def confirmed(strategy: IStrategy, now: datetime, pair: str = PAIR) -> bool:
    return strategy.confirm_trade_entry(pair, "limit", 0.1, 100.0, "GTC", now, None, "long")


def test_the_first_trade_is_confirmed(config: dict[str, Any], add_trade: Callable[..., None]) -> None:
    assert confirmed(load(config), OPENED)


def test_an_entry_at_the_open_of_an_exit_is_refused(config: dict[str, Any], add_trade: Callable[..., None]) -> None:
    strategy = load(config)
    add_trade(PAIR, OPENED)
    assert not confirmed(strategy, OPENED)
    assert confirmed(strategy, OPENED + timedelta(minutes=5))


def test_an_entry_within_the_candle_of_an_exit_is_refused(
    config: dict[str, Any], add_trade: Callable[..., None]
) -> None:
    strategy = load(config)
    add_trade(PAIR, OPENED + timedelta(minutes=1, seconds=3))
    assert not confirmed(strategy, OPENED + timedelta(minutes=4, seconds=59))
    assert confirmed(strategy, OPENED + timedelta(minutes=5, seconds=1))


def test_an_exit_in_the_candle_before_is_no_obstacle(config: dict[str, Any], add_trade: Callable[..., None]) -> None:
    add_trade(PAIR, OPENED - timedelta(microseconds=1))
    assert confirmed(load(config), OPENED)


def test_exits_of_another_pair_and_open_trades_are_no_obstacle(
    config: dict[str, Any], add_trade: Callable[..., None]
) -> None:
    add_trade(OTHER_PAIR, OPENED)
    add_trade(PAIR)
    strategy = load(config)
    assert confirmed(strategy, OPENED)
    assert not confirmed(strategy, OPENED, OTHER_PAIR)


@pytest.mark.parametrize("runmode", [RunMode.DRY_RUN, RunMode.LIVE, RunMode.BACKTEST])
def test_a_bot_enters_by_the_row_of_the_candle_that_has_just_closed(
    config: dict[str, Any], add_trade: Callable[..., None], runmode: RunMode
) -> None:
    strategy = load(config)
    strategy.config["runmode"] = runmode
    # The exchange of a live bot holds no position.
    strategy.wallets = Mock(spec=Wallets, **{"get_all_positions.return_value": {}})
    last = pd.Timestamp(OPENED) - timedelta(minutes=5)
    rows = {"none": [], "the one before": [last - timedelta(minutes=5)], "the last": [last]}
    for name, dates in rows.items():
        frame = pd.DataFrame({"date": pd.to_datetime(dates, utc=True)})
        strategy.dp.get_analyzed_dataframe = lambda *_, frame=frame: (frame, OPENED)
        # A backtest hands out the rows up to its candle anyway.
        assert confirmed(strategy, OPENED + timedelta(seconds=9)) == (name == "the last" or runmode == RunMode.BACKTEST)
