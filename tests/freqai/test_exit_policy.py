"""Answers worked out for the candles to come are given only where their state came true."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from random_markets import RULES, random_policy, random_tape

from mtfscalper.freqai.exit_policy import DecidingPeriod, ExitDecision, ExitPolicy, PeriodRows, TradeTerms
from mtfscalper.freqai.open_trade import OpenTrade, PriceHistory
from mtfscalper.policy.inference import PolicyDecider, TradeDecision
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.observation import TradeView, observe

N = 200
TAPE = random_tape(N)
HISTORY = PriceHistory.from_arrays(TAPE.timeframe_ms, TAPE.dates_ms, TAPE.open, TAPE.funding, float(TAPE.close[-1]))
VIEW = TradeView(0.025)
DECIDER = PolicyDecider(random_policy(), TAPE.features).trade_decider()
ENTRY = 20


class Counted:
    """A decider that notes how many questions it is asked at once."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def decide(self, observations: Any) -> list[TradeDecision]:
        self.asked.append(len(observations))
        return DECIDER.decide(observations)


def exit_policy(history: PriceHistory = HISTORY) -> tuple[ExitPolicy, Counted]:
    decider = Counted()
    rows = PeriodRows(TAPE.dates_ms, np.ones(N, dtype=bool), TAPE.long_signal, TAPE.short_signal, TAPE.features)
    period = DecidingPeriod(int(TAPE.dates_ms[0]), int(TAPE.dates_ms[-1]) + 1, rows, decider)
    return ExitPolicy(TradeTerms(RULES, VIEW, 1, "PPO"), history, period), decider


def open_trade() -> OpenTrade:
    trade = SimpleNamespace(
        pair="BTC/USDT:USDT",
        is_short=False,
        open_date_utc=datetime.fromtimestamp(int(TAPE.dates_ms[ENTRY]) / 1000, UTC),
        open_rate=float(TAPE.open[ENTRY]),
        leverage=RULES.leverage_long,
    )
    return OpenTrade(trade, RULES)  # type: ignore[arg-type]


def asked_at(
    policy: ExitPolicy, trade: OpenTrade, candle: int, rate: float, funding: float | None = None
) -> ExitDecision:
    decision = policy.decide(trade, int(TAPE.dates_ms[candle]), rate, funding)
    assert decision is not None
    return decision


def answer(candle: int, rate: float, funding: float | None) -> TradeDecision:
    """What the policy makes of a trade's true state."""
    account, profit = open_trade().at(HISTORY, int(TAPE.dates_ms[candle]), rate, funding)
    permitted = TAPE.long_signal[candle - 1], TAPE.short_signal[candle - 1]
    [decision] = DECIDER.decide([observe(SCALAR, RULES, VIEW, candle - 1, account, profit, *permitted)])
    return decision


def test_the_questions_to_come_are_answered_in_one_go_while_the_trade_goes_as_the_candles_do() -> None:
    policy, decider = exit_policy()
    trade = open_trade()
    for candle in range(ENTRY + 1, ENTRY + 11):
        rate = float(TAPE.open[candle])
        decision = asked_at(policy, trade, candle, rate)
        assert decision.probability == pytest.approx(answer(candle, rate, None).exit_probability, abs=1e-6)
    assert decider.asked == [32]


def test_funding_within_candles_is_foreseen() -> None:
    due = np.random.default_rng(3).normal(0.0, 0.01, (2, N)).tolist()
    policy, decider = exit_policy(HISTORY._replace(funding=due[0], funding_within=due[1]))
    trade = open_trade()
    for candle in range(ENTRY + 1, ENTRY + 31):
        asked_at(policy, trade, candle, float(TAPE.open[candle]))
    assert decider.asked == [32]


@pytest.mark.parametrize(("moved", "funding"), [(1.02, None), (1.0, -50.0)], ids=["another rate", "funding"])
def test_an_answer_whose_state_did_not_come_true_is_not_given(moved: float, funding: float | None) -> None:
    others = 0
    for candle in range(ENTRY + 2, ENTRY + 20):
        policy, decider = exit_policy()
        trade = open_trade()
        asked_at(policy, trade, ENTRY + 1, float(TAPE.open[ENTRY + 1]))
        _, prepared = policy._prepared[int(TAPE.dates_ms[candle])]
        rate = moved * float(TAPE.open[candle])
        decision = asked_at(policy, trade, candle, rate, funding)
        assert decider.asked == [32, 1]
        expected = answer(candle, rate, funding)
        assert decision.probability == expected.exit_probability
        others += abs(prepared.exit_probability - expected.exit_probability) > 1e-3
    # Else it would not matter which of the two was given.
    assert others > 10
