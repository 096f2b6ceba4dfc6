"""Exact decisions: the backtest's trades are the policy's own, and nothing else can decide about them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from damage import truncate
from exact_runs import Asked, assert_no_gap, judge, questions
from freqai_runs import OTHER_PAIR, PAIR, PERIODS, FreqtradeBacktest, Watch, predictions
from freqtrade.exceptions import OperationalException
from freqtrade.optimize.backtesting import Backtesting
from stable_baselines3 import PPO

from mtfscalper.artefacts import read_manifest, sealed_path
from mtfscalper.freqai import policy_store
from mtfscalper.freqai.columns import ACTION_COLUMN, EXIT_COLUMN
from mtfscalper.freqai.exit_policy import ExitPolicy, PeriodRows
from mtfscalper.freqai.open_trade import OpenTrade
from mtfscalper.freqai.trade_decisions import TradeDecisions
from mtfscalper.policy.inference import PolicyDecider, WholeTradeDecider
from mtfscalper.trading.account import FLAT, Candle
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.observation import observe
from mtfscalper.trading.rules import mark, profit_ratio, step

FIVE_MINUTES_MS = 300_000


@pytest.mark.parametrize(("mode", "leverage", "lookback"), [("gated", 1.0, 1), ("classic", 3.0, 1), ("agent", 1.0, 4)])
def test_the_backtest_makes_the_trades_of_the_rollout(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, mode: str, leverage: float, lookback: int
) -> None:
    freqai: dict[str, Any] = {"conv_width": lookback, "rl_config": {"entry_mode": mode}}
    verdicts = judge(tmp_path, market, monkeypatch, "random", leverage=leverage, freqai=freqai)
    assert_no_gap(verdicts)
    assert len(verdicts.backtest) > 10
    assert sum(trade.exit_reason == "exit_signal" for trade in verdicts.backtest) > 2
    assert len(verdicts.asked_in_backtest) > 100
    assert set(verdicts.results["leverage"]) == {leverage}
    # One reason, whatever the probability: a row in freqtrade's tables.
    assert {reason for reason in verdicts.results["exit_reason"] if reason.startswith("rl")} == {"rl_exit"}


def test_with_the_last_periods_policy_the_trades_would_differ(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: FreqAI's memory holds the model of the last period while all periods are traded."""
    real = sealed_path

    def last_periods_model(folder: Path, role: str) -> Path:
        if role != "model" or folder.parent.parent.name != "BTC_USDT_USDT":
            return real(folder, role)
        [last] = (folder.parent.parent / f"cb_btc_{PERIODS[-1]}").iterdir()
        return real(last, role)

    monkeypatch.setattr(policy_store.artefacts, "sealed_path", last_periods_model)
    verdicts = judge(tmp_path, market, monkeypatch, "random")
    with pytest.raises(AssertionError):
        assert_no_gap(verdicts)


def test_with_freqtrades_extremes_of_a_trade_the_observations_would_differ(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: ``trade.max_rate`` and ``min_rate`` know the candle that has just opened."""
    real_decide, real_at = TradeDecisions.decide, OpenTrade.at
    trades: list[Any] = []

    def decide(self: TradeDecisions, trade: Any, *arguments: Any) -> Any:
        trades.append(trade)
        return real_decide(self, trade, *arguments)

    def at(self: OpenTrade, *arguments: Any) -> Any:
        account, profit = real_at(self, *arguments)
        best = max(profit_ratio(self._rules, account, rate) for rate in (trades[-1].max_rate, trades[-1].min_rate))
        return account._replace(best_profit=max(account.best_profit, best)), profit

    monkeypatch.setattr(TradeDecisions, "decide", decide)
    monkeypatch.setattr(OpenTrade, "at", at)
    verdicts = judge(tmp_path, market, monkeypatch, "random")
    with pytest.raises(AssertionError):
        assert_no_gap(verdicts)


def test_with_refused_entries_decisions_follow_the_true_trade(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pairs, one slot: what is asked is the state of the trades that were made, not of those that were wanted."""
    Watch(monkeypatch, leaves=0.03)
    run = FreqtradeBacktest(
        tmp_path,
        market,
        exchange={"pair_whitelist": [PAIR, OTHER_PAIR]},
        freqai={"rl_config": {"decision_mode": "exact", "entry_mode": "agent"}},
    )
    run.run()
    answers: list[Any] = []
    with questions(monkeypatch) as asked, monkeypatch.context() as patch:
        real = ExitPolicy.decide

        def decide(self: ExitPolicy, *arguments: Any) -> Any:
            answers.append(real(self, *arguments))
            return answers[-1]

        patch.setattr(ExitPolicy, "decide", decide)
        results = run.trades()
    assert run.backtesting.rejected_trades > 100
    assert set(results["pair"]) == {PAIR, OTHER_PAIR}
    assert len(answers) == len(asked) > 100

    found = iter(zip(answers, asked, strict=True))
    left = 0
    for trade in results.itertuples():
        for now_ms, state, decision in lived_through(run, trade):
            answer, question = next(found)
            assert question[:3] == (trade.pair, trade.open_date.value // 10**6, now_ms)
            np.testing.assert_allclose(question.state, state, rtol=0, atol=1e-6)
            assert answer.leave == (decision.action != Action.NEUTRAL)
            assert answer.probability == pytest.approx(decision.exit_probability, abs=2e-5)
            if answer.leave:
                assert trade.close_date.value // 10**6 == now_ms
                assert trade.exit_reason == "rl_exit"
                left += 1
    assert next(found, None) is None
    assert left > 5


def lived_through(run: FreqtradeBacktest, trade: Any) -> Any:
    """Each candle of a true trade by the rules: its open, the state there, and the whole policy's decision."""
    store = run.store
    policy = store.exit_policy(trade.pair, trade.open_date.value // 10**6)
    terms, history = policy.terms, policy.history
    candles = run.candles[trade.pair]
    dates = candles["date"].astype("datetime64[ms, UTC]").astype("int64").to_numpy()
    offset = int(np.searchsorted(history.dates_ms, dates[0]))
    entry, exit_ = (int(np.searchsorted(dates, date.value // 10**6)) for date in (trade.open_date, trade.close_date))
    account = FLAT
    for at in range(entry, exit_ + 1):
        open_, high, low, close = (float(candles[name].iloc[at]) for name in ("open", "high", "low", "close"))
        candle = Candle(open_, high, low, close, float(history.funding[offset + at]), 1e8)
        account, profit, _ = mark(SCALAR, terms.rules, account, open_)
        if at > entry:
            period = store.exit_policy(trade.pair, int(dates[at - 1])).period
            row = period.row_of[int(dates[at - 1])]
            permitted = period.long_permitted[row], period.short_permitted[row]
            seen = observe(SCALAR, terms.rules, terms.view, row, account, profit, *permitted)
            [decision] = whole_policy(run, trade.pair, int(dates[at - 1])).decide([seen])
            yield int(dates[at]), seen.account, decision
        if at == entry:
            action = Action.SHORT_ENTER if trade.is_short else Action.LONG_ENTER
            account, _ = step(SCALAR, terms.rules, account, action, candle)
        else:
            account, _ = step(SCALAR, terms.rules, account, Action.NEUTRAL, candle)
        if account.side == 0:
            return


def whole_policy(run: FreqtradeBacktest, pair: str, row_ms: int) -> WholeTradeDecider:
    """The policy of a row's period by stable-baselines3's own loading and a whole forward."""
    period = max(start for start in PERIODS if start * 1000 <= row_ms)
    folder = run.models / f"sub-train-{pair.split('/')[0]}_{period}"
    model = PPO.load(sealed_path(folder, "model"), device="cpu")
    with np.load(sealed_path(folder, "decisions")) as arrays:
        rows = PeriodRows(**arrays)
    return WholeTradeDecider(PolicyDecider(model.policy, rows.features))


@pytest.mark.parametrize("change", ["scrambled", "truncated"])
def test_what_happens_later_changes_nothing_that_was_decided(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Candles from a moment in the midst of the last period on are other ones, or are not there at all."""
    Watch(monkeypatch)
    exact = {"freqai": {"rl_config": {"decision_mode": "exact"}}}
    moment = pd.Timestamp("2024-09-07 13:00", tz="UTC")
    whole, whole_rows, whole_asked, whole_trades = judged(
        FreqtradeBacktest(tmp_path / "whole", market, **exact), monkeypatch
    )
    if change == "truncated":
        other = FreqtradeBacktest(tmp_path / "other", market, timerange=f"20240905-{moment.value // 10**9}", **exact)
    else:
        scramble(shutil.copytree(market, tmp_path / "scrambled"), moment)
        other = FreqtradeBacktest(tmp_path / "other", tmp_path / "scrambled", **exact)
    other, rows, asked, trades = judged(other, monkeypatch)

    assert read_manifest(whole.folder(PERIODS[0])) is not None
    columns, known = predictions(rows), predictions(whole_rows)
    columns, known = columns[columns["date"] < moment], known[known["date"] < moment]
    assert len(columns) > 2 * 288 + 140
    pd.testing.assert_frame_equal(columns, known)
    # A trade that was over before the moment, and every question before it.
    moment_ms = moment.value // 10**6
    before = [trade for trade in whole_trades.itertuples() if trade.close_date < moment]
    assert len(before) > 10
    for ours, theirs in zip(trades.itertuples(), before, strict=False):
        assert (ours.open_date, ours.close_date, ours.open_rate, ours.close_rate, ours.exit_reason) == (
            theirs.open_date,
            theirs.close_date,
            theirs.open_rate,
            theirs.close_rate,
            theirs.exit_reason,
        )
    n = sum(question.now_ms < moment_ms for question in whole_asked)
    assert n > 100
    assert asked[:n] == whole_asked[:n]
    if change == "scrambled":
        # The control: what was scrambled is seen afterwards.
        assert asked[n:] != whole_asked[n:]


def judged(
    run: FreqtradeBacktest, monkeypatch: pytest.MonkeyPatch
) -> tuple[FreqtradeBacktest, pd.DataFrame, list[Asked], pd.DataFrame]:
    """A run, its columns, its questions and its trades."""
    rows = run.run()
    with questions(monkeypatch) as asked:
        trades = run.trades()
    Backtesting.cleanup()
    return run, rows, asked, trades


def scramble(datadir: Path, moment: pd.Timestamp) -> None:
    """Make the candles that open at the moment or later, on every timeframe, other ones."""
    for path in datadir.glob("futures/BTC_USDT_USDT-*-futures.feather"):
        frame = pd.read_feather(path)
        length = frame["date"].diff().min()
        late = frame["date"] + length > moment
        factor = np.random.default_rng(3).uniform(0.9, 1.1, len(frame))
        for name in ("open", "high", "low", "close"):
            # To the same decimals: freqtrade reads a month's price ticks off all its candles.
            frame.loc[late, name] = (frame[name] * factor)[late].round(1)
        frame.to_feather(path)


def test_the_columns_are_those_of_a_flat_account(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Watch(monkeypatch)
    rows = FreqtradeBacktest(tmp_path, market, freqai={"rl_config": {"decision_mode": "exact"}}).run()
    assert set(rows[ACTION_COLUMN]) == {Action.NEUTRAL, Action.LONG_ENTER, Action.SHORT_ENTER}
    assert (rows[EXIT_COLUMN] == 0).all()


def test_predictions_without_what_decides_are_made_anew(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch(monkeypatch)
    exact = {"freqai": {"rl_config": {"decision_mode": "exact"}}}
    first = FreqtradeBacktest(tmp_path, market, **exact)
    first.run()
    known = first.trades()
    Backtesting.cleanup()
    watch.forget()
    truncate(sealed_path(first.folder(PERIODS[1]), "decisions"))
    again = FreqtradeBacktest(tmp_path, market, **exact)
    again.run()
    assert watch.trained == []
    assert (
        f"predictions of cb_btc_{PERIODS[1]} are made anew: cb_btc_{PERIODS[1]}_decisions.npz is damaged" in caplog.text
    )
    assert f"predictions of cb_btc_{PERIODS[0]} are made anew" not in caplog.text
    pd.testing.assert_frame_equal(again.trades(), known)


def test_a_policy_lost_between_training_and_trading_ends_the_run(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watch(monkeypatch)
    run = FreqtradeBacktest(tmp_path, market, freqai={"rl_config": {"decision_mode": "exact"}})
    run.run()
    sealed_path(run.folder(PERIODS[1]), "model").write_bytes(b"not a model")
    # Of freqtrade's own kind: its command prints it, and ends with a status that is not 0.
    with pytest.raises(OperationalException, match=r"no decision about an open trade: .* is damaged .*remedy: run the"):
        run.trades()


def test_a_policy_traded_under_other_rules_says_so_once(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Watch(monkeypatch)
    run = FreqtradeBacktest(tmp_path, market, freqai={"rl_config": {"decision_mode": "exact"}})
    run.run()
    run.trades()
    assert "was trained for another value" not in caplog.text
    Backtesting.cleanup()
    # As hyperopt does.
    run.strategy.stoploss = -0.013
    run.strategy.minimal_roi = {0: 0.05}
    run.strategy.leverage_used = 2.0
    run.trades()
    told = [record.getMessage() for record in caplog.records if "was trained for another value" in record.getMessage()]
    assert sorted(line.split(": ", 2)[2].split(" is")[0] for line in told) == ["leverage", "minimal_roi", "stoploss"]
    assert f"{PAIR}: the policy was trained for another value: stoploss is -0.013, and was -0.02." in told
