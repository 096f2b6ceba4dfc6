"""Who enters is decided by what a strategy computes, and what it computes must be learnable, before any training."""

import logging
from pathlib import Path
from typing import Any

import live_bot
import pytest
from freqai_runs import OTHER_PAIR, PAIR, FreqtradeBacktest, Watch
from freqtrade.exceptions import OperationalException
from live_bot import LiveBot

from mtfscalper.freqai.columns import ACTION_COLUMN
from mtfscalper.freqai.strategy_frame import StrategyRefusedError
from mtfscalper.trading.actions import Action

STRATEGIES = Path(__file__).parent / "strategies"


def run_of(home: Path, datadir: Path, strategy: str, mode: str | None = None, **overlay: Any) -> FreqtradeBacktest:
    freqai = {"rl_config": {"entry_mode": mode or "auto"}}
    return FreqtradeBacktest(home, datadir, strategy=strategy, strategy_path=STRATEGIES, freqai=freqai, **overlay)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "entry_mode" in record.getMessage()]


@pytest.mark.parametrize(
    ("strategy", "mode", "line"),
    [
        ("ColumnOnlyStrategy", "agent", "entry_mode 'auto' is 'agent', for the strategy sets no classic signals."),
        ("ClassicColumnStrategy", "gated", "entry_mode 'auto' is 'gated', for the strategy sets its classic signals."),
    ],
)
def test_by_default_the_strategy_decides_who_enters_and_one_line_says_so(
    tmp_path: Path,
    market: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    strategy: str,
    mode: str,
    line: str,
) -> None:
    watch = Watch(monkeypatch, leaves=0.2)
    run = run_of(tmp_path, market, strategy)
    with caplog.at_level(logging.INFO, "mtfscalper"):
        rows = run.run()
    assert told(caplog) == [f"{strategy}: {line}"]
    assert run.strategy.freqai.settings.rl.entry_mode == mode
    entered = rows[ACTION_COLUMN].isin([Action.LONG_ENTER, Action.SHORT_ENTER])
    assert entered.sum() > 5
    if mode == "gated":
        assert (rows.loc[entered, "classic_long"] + rows.loc[entered, "classic_short"] == 1).all()
    assert watch.trained == [PAIR] * 3
    # The mode is part of what a policy was made from, as it was decided and not as it was written.
    watch.forget()
    run_of(tmp_path, market, strategy, mode).run()
    assert watch.trained == []


@pytest.mark.parametrize("mode", ["gated", "classic"])
@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (
            "ColumnOnlyStrategy",
            "no classic_long and classic_short for BTC/USDT:USDT in feature_engineering_standard;",
        ),
        ("OneSignalStrategy", "sets no classic_short for BTC/USDT:USDT in feature_engineering_standard"),
        ("OutsideSignalsStrategy", ", but outside, where a bot's training does not see them; accepted: classic_long"),
    ],
)
def test_missing_signals_are_refused_before_any_training(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, mode: str, strategy: str, message: str
) -> None:
    watch = Watch(monkeypatch)
    with pytest.raises(OperationalException) as refused:
        run_of(tmp_path, market, strategy, mode).run()
    assert f"freqai.rl_config.entry_mode is '{mode}', and {strategy} sets no classic_" in str(refused.value)
    assert message in str(refused.value)
    assert "remedy: add them, or set entry_mode to 'agent'" in str(refused.value)
    assert watch.trained == []


@pytest.mark.parametrize("strategy", ["OneSignalStrategy", "OutsideSignalsStrategy"])
def test_signals_set_by_halves_are_not_taken_for_none(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    watch = Watch(monkeypatch)
    with pytest.raises(OperationalException, match=r"entry_mode is 'auto', and .* sets no classic_"):
        run_of(tmp_path, market, strategy).run()
    assert watch.trained == []


def test_signals_set_outside_stay_in_the_frame_where_the_agent_enters(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watch(monkeypatch)
    run = run_of(tmp_path, market, "OutsideSignalsStrategy", "agent")
    assert {"classic_long", "classic_short"} <= set(run.run().columns)
    # The strategy's entries read them.
    run.trades()


def test_a_strategy_with_signals_for_some_pairs_is_asked_for_a_mode(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    both = {"exchange": {"pair_whitelist": [PAIR, OTHER_PAIR]}}
    with pytest.raises(OperationalException, match=f"for some pairs and for others, such as {OTHER_PAIR}, not"):
        run_of(tmp_path, market, "OnePairsSignalsStrategy", **both).run()
    assert OTHER_PAIR not in watch.trained


@pytest.mark.parametrize(
    ("strategy", "what"), [("TwoTargetsStrategy", "declares &s-close"), ("OtherTargetStrategy", "declares no &-action")]
)
def test_a_target_that_no_policy_predicts_is_refused_before_any_training(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, what: str
) -> None:
    watch = Watch(monkeypatch)
    with pytest.raises(OperationalException) as refused:
        run_of(tmp_path, market, strategy).run()
    assert str(refused.value).startswith(f"{strategy}'s set_freqai_targets {what} for {PAIR}; accepted: &-action, and")
    assert "remedy: declare only these" in str(refused.value)
    assert watch.trained == []


# ---------------------------------------------------------------------- bots


def bot_of(home: Path, market: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, mode: str) -> LiveBot:
    monkeypatch.setattr(live_bot, "loosen_signals", lambda strategy: None)
    freqai = {"rl_config": {"entry_mode": mode}}
    return LiveBot(home, market, monkeypatch, strategy=strategy, strategy_path=STRATEGIES, freqai=freqai)


@pytest.mark.parametrize(("strategy", "mode"), [("ColumnOnlyStrategy", "agent"), ("ClassicColumnStrategy", "gated")])
def test_a_bot_decides_it_before_its_first_training(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, mode: str
) -> None:
    Watch(monkeypatch, leaves=0.2)
    bot = bot_of(tmp_path, market, monkeypatch, strategy, "auto")
    bot.analyse()
    assert bot.model.settings.rl.entry_mode == mode
    bot.train()
    first = bot.analyse()
    entered = first[ACTION_COLUMN].isin([Action.LONG_ENTER, Action.SHORT_ENTER])
    assert entered.sum() > 5
    if mode == "gated":
        assert (first.loc[entered, "classic_long"] + first.loc[entered, "classic_short"] == 1).all()


@pytest.mark.parametrize(
    ("strategy", "mode", "message"),
    [
        ("ColumnOnlyStrategy", "gated", "entry_mode is 'gated', and ColumnOnlyStrategy sets no classic_long"),
        ("TwoTargetsStrategy", "agent", "TwoTargetsStrategy's set_freqai_targets declares &s-close"),
    ],
)
def test_a_bot_stops_where_a_backtest_would(
    tmp_path: Path,
    market: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    strategy: str,
    mode: str,
    message: str,
) -> None:
    watch = Watch(monkeypatch)
    bot = bot_of(tmp_path, market, monkeypatch, strategy, mode)
    with pytest.raises(StrategyRefusedError, match=message):
        bot.analyse()
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert message in record.getMessage()
    assert record.exc_info is None
    assert watch.trained == []
