"""The account of a true trade is the environment's, candle by candle, and knows nothing of the future."""

from dataclasses import replace

import numpy as np
import pytest
from random_markets import RULES, env_settings, random_policy, random_tape

from mtfscalper.market.tape import MarketTape
from mtfscalper.policy import replay as replay_module
from mtfscalper.policy.decide import PolicyDecider
from mtfscalper.policy.replay import replay
from mtfscalper.policy.true_trade import PriceHistory, account_of_trade

N = 1200


def history_of(tape: MarketTape) -> PriceHistory:
    return PriceHistory.of(tape.timeframe_ms, tape.dates_ms, tape.open, tape.funding)


@pytest.mark.parametrize("is_short", [False, True])
def test_the_account_of_a_trade_is_the_one_that_the_rules_hold(is_short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tape, policy = random_tape(N), random_policy()
    # Funding of a size that shows, and at any candle.
    # Opens that tell which candle they belong to.
    tape = replace(tape, open=tape.open + 1e-9 * np.arange(N))
    tape = replace(tape, funding=np.random.default_rng(5).normal(0, 1, N) * (np.arange(N) % 5 == 0))
    held: dict[int, tuple[float, ...]] = {}
    real = replay_module.account_state

    def account_state(xp, rules, aim, account, open_rate, *permitted):
        state = real(xp, rules, aim, account, open_rate, *permitted)
        if isinstance(account.side, float) and account.side:
            row = int(np.flatnonzero(tape.open == open_rate)[0])
            held[row] = (*account[:3], account.held_candles, account.best_profit, account.funding)
        return state

    monkeypatch.setattr(replay_module, "account_state", account_state)
    result = replay(PolicyDecider(policy, tape.features), tape, env_settings(), 0, N)
    compared = 0
    for trade in result.trades:
        if trade.is_short != is_short:
            continue
        entry, exit_ = (int(np.searchsorted(tape.dates_ms, ms)) for ms in (trade.open_ms, trade.close_ms))
        for row in range(entry + 1, exit_ + 1):
            if row not in held:
                continue
            account, profit = account_of_trade(
                RULES,
                history_of(tape),
                is_short=is_short,
                # Somewhere within its candle, as an order of a bot fills.
                open_ms=trade.open_ms + 61_000,
                open_rate=trade.open_rate,
                leverage=RULES.leverage_short if is_short else RULES.leverage_long,
                now_ms=int(tape.dates_ms[row]),
                now_rate=float(tape.open[row]),
            )
            ours = (*account[:3], account.held_candles, account.best_profit, account.funding)
            np.testing.assert_allclose(ours, held[row], rtol=0, atol=1e-11)
            assert profit <= account.best_profit
            compared += 1
    assert compared > 100


def test_nothing_from_this_candle_on_is_read_but_its_open() -> None:
    tape = random_tape(60)
    now = 40
    spoilt = np.where(np.arange(60) >= now, np.nan, tape.open)
    future = replace(tape, open=spoilt, funding=np.where(np.arange(60) >= now, np.nan, tape.funding))
    asked = {
        "is_short": False,
        "open_ms": int(tape.dates_ms[20]),
        "open_rate": float(tape.open[20]),
        "leverage": 1.0,
        "now_ms": int(tape.dates_ms[now]),
        "now_rate": float(tape.open[now]),
    }
    known = account_of_trade(RULES, history_of(tape), **asked)
    assert account_of_trade(RULES, history_of(future), **asked) == known
    # The control: a past open is read.
    best = int(np.argmax(tape.open[21:now])) + 21
    other = replace(tape, open=np.where(np.arange(60) == best, 2 * tape.open, tape.open))
    assert account_of_trade(RULES, history_of(other), **asked)[0].best_profit > known[0].best_profit


def test_a_trade_that_knows_its_funding_is_believed() -> None:
    tape = random_tape(60)
    account, profit = account_of_trade(
        RULES,
        history_of(tape),
        is_short=True,
        open_ms=int(tape.dates_ms[20]),
        open_rate=1000.0,
        leverage=2.0,
        now_ms=int(tape.dates_ms[30]),
        now_rate=1000.0,
        funding_received=-50.0,
    )
    assert account.funding == -50.0
    assert profit == pytest.approx(-0.1, abs=0.01)


def test_a_trade_older_than_the_history_counts_its_candles_from_its_entry() -> None:
    tape = random_tape(60)
    account, _ = account_of_trade(
        RULES,
        history_of(tape),
        is_short=False,
        open_ms=int(tape.dates_ms[0]) - 10 * tape.timeframe_ms,
        open_rate=1000.0,
        leverage=1.0,
        now_ms=int(tape.dates_ms[-1]) + tape.timeframe_ms,
        now_rate=float(tape.close[-1]),
    )
    assert account.held_candles == 70
