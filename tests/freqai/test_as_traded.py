"""What a strategy says of its trades is asked as the backtester asks, and the rollout's trades are the backtester's."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import time_machine
from freqai_runs import PAIR, FreqtradeBacktest, Watch
from freqtrade.exceptions import InvalidOrderException, OperationalException, TemporaryError
from live_bot import LiveBot
from test_other_strategies import STRATEGIES, assert_same_trades

from mtfscalper.freqai import as_traded
from mtfscalper.trading.trading_rules import RulesError
from mtfscalper.training.job import TrainingJob

AGENT: dict[str, Any] = {"freqai": {"rl_config": {"entry_mode": "agent"}}}


@pytest.fixture(autouse=True)
def _strategies_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STRATEGIES))
    sys.modules.pop("column_only_strategies", None)


def run_of(home: Path, market: Path, strategy: str, **more: Any) -> FreqtradeBacktest:
    return FreqtradeBacktest(home, market, strategy=strategy, strategy_path=STRATEGIES, **(AGENT | more))


@pytest.mark.parametrize(
    ("strategy", "leverages"),
    [
        ("ByRate", {2.0, 10.0}),
        ("ByHour", {1.0, 3.0}),
        ("ByTag", {5.0, 2.0}),
        ("ByVolatility", None),
        ("OwnConditions", {1.0}),
        ("OwnStake", {1.0}),
        ("Raises", {1.0}),
    ],
)
def test_trades_are_learned_as_the_backtester_makes_them(
    tmp_path: Path,
    market: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    strategy: str,
    leverages: set[float] | None,
) -> None:
    watch = Watch(monkeypatch, leaves=0.2)
    run = run_of(tmp_path, market, strategy)
    run.run()
    assert_same_trades(run, watch)
    asked = set(np.round(run.results["leverage"], 6))
    assert len(asked) > 5 if leverages is None else asked == leverages
    assert ("leverage of Raises raised KeyError: 'atr'" in caplog.text) == (strategy == "Raises")
    assert "cannot be run on columns" not in caplog.text


def test_the_clock_of_the_computer_changes_nothing(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    run_of(tmp_path, market, "ByHour").run()
    watch.forget()
    with time_machine.travel("2030-01-01 15:00"):
        run_of(tmp_path, market, "ByHour").run()
    assert watch.trained == []


def test_no_stop_is_the_liquidation_and_one_line_says_where(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch(monkeypatch, leaves=0.01)
    run = run_of(tmp_path, market, "WithoutStop")
    run.run()
    judged = assert_same_trades(run, watch)
    assert sum(trade.exit_reason == "liquidation" for trade in judged) > 3
    told = [record.getMessage() for record in caplog.records if "beyond the liquidation" in record.getMessage()]
    assert len(told) == 2
    assert "WithoutStop at -0.99 of the stake lies beyond the liquidation, 0.6 % from the entry rate of a" in told[0]


def test_a_strategy_that_cannot_be_run_for_its_columns_is_named(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Watch(monkeypatch)
    run_of(tmp_path, market, "CannotBeRun").run()
    assert (
        "CannotBeRun cannot be run on columns of an imagined policy (ValueError: a policy never enters" in caplog.text
    )


def test_a_leverage_that_is_the_same_everywhere_is_found_in_a_sample(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(as_traded, "_CHEAP_SECONDS", 0.0)
    Watch(monkeypatch)
    run = run_of(tmp_path, market, "WithoutStop")
    run.run()
    assert caplog.text.count("leverage of WithoutStop takes long, and answered the same for a") == 2
    caplog.clear()
    run_of(tmp_path / "other", market, "ByHour").run()
    assert "takes long" not in caplog.text


@pytest.mark.parametrize("slots", [1, 2, 10])
def test_the_stake_is_one_slots_share(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    Watch(monkeypatch)
    jobs: list[TrainingJob] = []
    real = TrainingJob.run
    monkeypatch.setattr(TrainingJob, "run", lambda job, *more: (jobs.append(job), real(job, *more))[1])
    run = run_of(tmp_path, market, "ColumnOnlyStrategy", max_open_trades=slots, stake_amount="unlimited")
    run.run()
    assert jobs[0].env.rules.stake_ratio == pytest.approx(0.99 / slots)
    first = run.trades().iloc[0]
    assert first["stake_amount"] == pytest.approx(1e9 * 0.99 / slots, rel=1e-6)


def test_a_bot_trains_on_what_its_strategy_says_and_decides_with_it(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watch(monkeypatch)
    jobs: list[TrainingJob] = []
    real = TrainingJob.run
    monkeypatch.setattr(TrainingJob, "run", lambda job, *more: (jobs.append(job), real(job, *more))[1])
    bot = LiveBot(tmp_path, market, monkeypatch, strategy="OwnConditions", strategy_path=STRATEGIES, **AGENT)
    bot.analyse()
    bot.train()
    [job] = jobs
    assert job.train.long_exit is not None
    assert job.train.long_gate is not None
    assert 0.02 < job.train.long_exit.mean() < 0.5
    assert 0.3 < job.train.long_gate.mean() < 0.95
    frame = bot.analyse()
    seen = bot.model.exit_policy(PAIR, 0)
    assert seen is not None
    permitted = np.array(seen.period.long_permitted)
    rsi = frame["rsi"].to_numpy()[-len(permitted) :]
    np.testing.assert_array_equal(permitted[-100:], (rsi <= 55)[-100:] & ~(rsi > 60)[-100:])


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("LeavesForTheOtherSide", "its exits depend on the policy's columns"),
        ("CannotBeRun", "cannot be run on columns of an imagined policy"),
    ],
)
def test_what_training_does_not_know_of_a_strategy_is_told_once_in_a_bots_life(
    tmp_path: Path,
    market: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    strategy: str,
    said: str,
) -> None:
    """A bot asks its strategy at every candle, and at every training."""
    Watch(monkeypatch)
    bot = LiveBot(tmp_path, market, monkeypatch, strategy=strategy, strategy_path=STRATEGIES, **AGENT)
    bot.analyse()
    bot.train()
    for _ in range(3):
        bot.next_candle()
        bot.analyse()
    assert caplog.text.count(said) == 1


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (InvalidOrderException("Stake amount 1 too high for it"), RulesError),
        (OperationalException("no tier"), RulesError),
        # A mistake of the program's is no stake of the user's.
        (KeyError("maxLeverage"), KeyError),
    ],
)
def test_only_what_the_exchange_says_of_a_stake_is_the_stakes_fault(error: Exception, raised: type[Exception]) -> None:
    def refuse(pair: str, stake: float) -> float:
        raise error

    exchange: Any = SimpleNamespace(get_max_leverage=refuse)
    candles = pd.DataFrame({"date": pd.date_range("2024-09-01", periods=2, freq="5min", tz="UTC"), "open": 1.0})
    callbacks = as_traded.Callbacks(cast(Any, None), exchange, PAIR, "long", candles, None, 1.0)
    with pytest.raises(raised, match="cannot be leveraged" if raised is RulesError else "maxLeverage"):
        assert callbacks.largest_leverage


@pytest.mark.parametrize("limit", ["get_min_pair_stake_amount", "get_max_pair_stake_amount"])
@pytest.mark.parametrize("error", [ValueError("Can't get market information"), TemporaryError("no answer")])
def test_an_exchange_without_limits_of_a_stake_is_not_the_strategys_fault(limit: str, error: Exception) -> None:
    def refuse(*_: Any) -> float:
        raise error

    class Stakes:
        def custom_stake_amount(self, **_: Any) -> float:
            raise KeyError("of the strategy")

    limits = {name: lambda *_: 1.0 for name in ("get_min_pair_stake_amount", "get_max_pair_stake_amount")}
    candles = pd.DataFrame({"date": pd.date_range("2024-09-01", periods=2, freq="5min", tz="UTC"), "open": 1.0})

    def asked(**of_exchange: Any) -> as_traded.Asked:
        exchange: Any = SimpleNamespace(**of_exchange)
        strategy = cast(Any, Stakes())
        return as_traded.Callbacks(strategy, exchange, PAIR, "long", candles, None, 1.0).stakes(np.ones(2), 1.0)

    with pytest.raises(RulesError, match="the exchange names no limits of a stake at the rate 1 and leverage 1"):
        asked(**{**limits, limit: refuse})
    # What the strategy raises is still the strategy's.
    assert isinstance(asked(**limits).failure, KeyError)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([None] * 4, r"answers None at 2024-09-01 00:05, the first of 3 such candles"),
        ([2.0, 2.0, 2.0, None], r"answers None at 2024-09-01 00:15, the first of 1 such candles"),
        ([2.0, 2.0, float("nan"), 2.0], r"answers nan at 2024-09-01 00:10"),
        ([2.0, 2.0, "3", 2.0], r"answers '3' at 2024-09-01 00:10"),
        # Until an indicator has its candles.
        ([float("nan"), np.float64("nan"), 2.0, 2.0], None),
        ([None, None, np.int64(3), True], None),
    ],
)
@pytest.mark.parametrize("name", ["leverage", "custom_stake_amount"])
def test_an_answer_that_is_no_number_is_refused_before_the_training(name: str, answers: list[Any], said: str) -> None:
    dates = pd.date_range("2024-09-01", periods=len(answers), freq="5min", tz="UTC")
    candles = pd.DataFrame({"date": dates, "open": 1.0})
    by_date = dict(zip(dates.to_pydatetime(), answers, strict=True))
    own = SimpleNamespace(**{name: lambda **asked: by_date[asked["current_time"]]})
    exchange: Any = SimpleNamespace(
        get_max_leverage=lambda *_: 20.0,
        get_min_pair_stake_amount=lambda *_: 1.0,
        get_max_pair_stake_amount=lambda *_: 100.0,
    )
    of_class = type("Answers", (), {name: lambda self, **asked: vars(own)[name](**asked)})
    callbacks = as_traded.Callbacks(cast(Any, of_class()), exchange, PAIR, "long", candles, None, 1.0)
    ask = callbacks.leverages if name == "leverage" else lambda: callbacks.stakes(np.ones(len(answers)), 100.0)
    # A stake of nothing is freqtrade's word for no trade.
    if said is not None and not (name == "custom_stake_amount" and "None" in said):
        with pytest.raises(RulesError, match=f"{name} of Answers {said}.*accepted: a number at every candle; remedy"):
            ask()
    else:
        asked = ask()
        assert np.isfinite(asked.values).all()
        assert asked.failures == 0
