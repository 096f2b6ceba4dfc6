"""The same trained policies judged twice: by freqtrade's backtester through ``custom_exit``, and by the rules alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from freqai.freqai_runs import FreqtradeBacktest, Watch
from parity.backtester import as_closed_trades

from mtfscalper.freqai import exit_policy
from mtfscalper.freqai.exit_policy import ExitPolicy
from mtfscalper.freqai.open_trade import OpenTrade
from mtfscalper.freqai.policy_exits import POLICY_REASON
from mtfscalper.policy.inference import PolicyDecider, WholeTradeDecider
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.trades import ClosedTrade


class Asked(NamedTuple):
    """A question about an open trade, and its answer.

    :ivar pair: as the next two, told by ``custom_exit`` alone
    :ivar open_ms: when the trade was opened, milliseconds since 1970
    :ivar now_ms: the candle that opened
    :ivar features: of the row, by which it is known again
    """

    pair: str
    open_ms: int
    now_ms: int
    state: tuple[float, ...]
    features: bytes
    action: int


@contextmanager
def questions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Asked]]:
    """Note every answer about an open trade that ``custom_exit`` or a rollout was given."""
    asked: list[Asked] = []
    states: list[tuple[float, ...]] = []
    real_observe, real_decide, real_trade_decide = exit_policy.observe, ExitPolicy.decide, WholeTradeDecider.decide

    def observe(xp: Any, *arguments: Any) -> Any:
        seen = real_observe(xp, *arguments)
        # Those that are worked out beforehand come in arrays.
        if xp is SCALAR:
            states.append(tuple(map(float, seen.account)))
        return seen

    def decide_on_trade(self: ExitPolicy, trade: OpenTrade, now_ms: int, *more: Any) -> Any:
        decision = real_decide(self, trade, now_ms, *more)
        if decision is not None:
            row_ms = now_ms - self.history.timeframe_ms
            features = self.period.decider._features[self.period.row_of[row_ms]].tobytes()
            leave = Action.LONG_EXIT if states[-1][0] > 0 else Action.SHORT_EXIT
            action = int(leave if decision.leave else Action.NEUTRAL)
            asked.append(Asked(trade.pair, trade.open_ms, now_ms, states[-1], features, action))
        return decision

    def decide(self: WholeTradeDecider, observations: Any) -> Any:
        decisions = real_trade_decide(self, observations)
        for seen, decision in zip(observations, decisions, strict=True):
            features = self._decider._features[int(seen.row)].tobytes()
            asked.append(Asked("", 0, 0, tuple(map(float, seen.account)), features, decision.action))
        return decisions

    with monkeypatch.context() as patch:
        patch.setattr(exit_policy, "observe", observe)
        patch.setattr(ExitPolicy, "decide", decide_on_trade)
        patch.setattr(WholeTradeDecider, "decide", decide)
        yield asked


class Verdicts(NamedTuple):
    """Trades and questions of both judges.

    :ivar backtest: what freqtrade's backtester made of the policy's decisions in ``custom_exit``
    :ivar rollout: what the rules made of the same policy in closed loop
    """

    backtest: list[ClosedTrade]
    rollout: list[ClosedTrade]
    asked_in_backtest: list[Asked]
    asked_in_rollout: list[Asked]
    results: pd.DataFrame


def policys_trades(results: pd.DataFrame) -> list[ClosedTrade]:
    """freqtrade's trades; an exit of the policy is a signal."""
    return [
        trade._replace(exit_reason="exit_signal") if trade.exit_reason == POLICY_REASON else trade
        for trade in as_closed_trades(results.sort_values("close_date"))
    ]


def judge(
    home: Path,
    datadir: Path,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    *,
    leaves: float = 0.01,
    leverage: float = 1.0,
    **overlay: Any,
) -> Verdicts:
    """Train, backtest in exact mode, then roll the same policies out through the rules.

    :param policy: see :class:`freqai_runs.Watch`, as ``leaves``
    """
    watch = Watch(monkeypatch, policy, leaves)

    def run(mode: str) -> FreqtradeBacktest:
        freqai = overlay.get("freqai", {})
        rl = {"rl_config": freqai.get("rl_config", {}) | {"decision_mode": mode}}
        made = FreqtradeBacktest(home, datadir, **(overlay | {"freqai": freqai | rl}))
        made.strategy.leverage_used = leverage
        made.run()
        return made

    exact = run("exact")
    trained = len(watch.trained)
    with questions(monkeypatch) as in_backtest:
        results = exact.trades()
    assert watch.replayed == []
    with monkeypatch.context() as patch:
        # The rollout asks the whole policy, forward by forward: another way than the one that custom_exit asks.
        patch.setattr(PolicyDecider, "trade_decider", lambda self: WholeTradeDecider(self))
        with questions(patch) as in_rollout:
            run("replay")
    # Both judge one policy: nothing was trained for the second.
    assert len(watch.trained) == trained > 0
    rollout = [trade for period in watch.replayed for trade in period.trades]
    return Verdicts(policys_trades(results), rollout, in_backtest, in_rollout, results)


def assert_no_gap(verdicts: Verdicts) -> None:
    """The same trades, decided on the same observations."""
    judged = verdicts.backtest
    if judged[-1].exit_reason == "force_exit":
        # The backtester closes what is open when its data end; the rollout is still in it.
        judged = judged[:-1]
    nameless = [trade._replace(profit_ratio=0.0) for trade in judged]
    assert [trade._replace(profit_ratio=0.0) for trade in verdicts.rollout] == nameless
    np.testing.assert_allclose(
        [trade.profit_ratio for trade in verdicts.rollout], [trade.profit_ratio for trade in judged], rtol=0, atol=1e-12
    )
    theirs, ours = verdicts.asked_in_backtest, verdicts.asked_in_rollout
    # The open that ends the data is no candle of the rollout, and the last row of it none of the backtest's.
    n = min(len(theirs), len(ours))
    assert abs(len(theirs) - len(ours)) <= 1
    assert [(asked.features, asked.action) for asked in theirs[:n]] == [
        (asked.features, asked.action) for asked in ours[:n]
    ]
    np.testing.assert_allclose(
        [asked.state for asked in theirs[:n]], [asked.state for asked in ours[:n]], rtol=0, atol=1e-6
    )
