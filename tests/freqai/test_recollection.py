"""What a recurrent policy remembers of a pair: the same in an unbroken bot, a restarted one, and a backtest."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from random_markets import env_settings, random_tape
from recurrent_policies import Loop, recurrent_model, stateful_loop
from sb3_contrib import RecurrentPPO

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.freqai.open_trade import PriceHistory
from mtfscalper.freqai.recollection import WARM_UP_CANDLES, AtLastRow, Lived, LiveMemories, warm_up
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy import closed_loop
from mtfscalper.policy.closed_loop import FlatDecisions
from mtfscalper.policy.recurrent import Recollection, RecurrentDecider, RecurrentPolicyError
from mtfscalper.trading.account import FLAT, Account
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.observation import Observation, observe
from mtfscalper.trading.rules import mark
from mtfscalper.trading.trades import ClosedTrade

LOOKBACK = 2
FIRST = WARM_UP_CANDLES + 20
TAPE = random_tape(FIRST + 110)
TRAINED_MS = int(TAPE.dates_ms[FIRST])


class Trading:
    """A policy on a tape, and the account's trades as stable-baselines3's loop makes them from its first row on."""

    def __init__(self, mode: str, seed: int = 0) -> None:
        self.settings: EnvSettings = env_settings(mode, LOOKBACK)
        self.model: RecurrentPPO = recurrent_model(TAPE, self.settings, seed)
        rows = range(FIRST - WARM_UP_CANDLES, FIRST)
        self.loop: Loop = stateful_loop(self.model, TAPE, self.settings, warm_up=rows, first_row=FIRST)

    def trades_at(self, candle_ms: int) -> list[Any]:
        """What freqtrade's database holds as a candle opens."""
        return [
            as_freqtrades(trade, self.settings, candle_ms) for trade in self.loop.trades if trade.open_ms < candle_ms
        ]

    def ask(self, memories: LiveMemories, row: int, first: int = 0) -> tuple[int, list[float]]:
        """A pass of a bot: what is done after a row, and the probabilities behind it.

        :param first: of the rows that the bot has
        """
        tape = TAPE.rows(first, row + 1)
        candle_ms = int(TAPE.dates_ms[row + 1])
        trades = self.trades_at(candle_ms)
        flat, asked = memories.at_last_row(self.model, tape, self.settings, history(tape), TRAINED_MS, trades)
        lived = [Lived.of(trade, self.settings.rules, tape.timeframe_ms) for trade in trades]
        for one in lived:
            if one.is_open_at(candle_ms):
                account, profit = one.trade.at(history(TAPE), candle_ms, float(TAPE.open[row + 1]))
                permitted = bool(TAPE.long_signal[row]), bool(TAPE.short_signal[row])
                if self.settings.entry_mode == "agent":
                    permitted = True, True
                settings = self.settings
                seen = observe(SCALAR, settings.rules, settings.view, row - first, account, profit, *permitted)
                [(action, probability)] = asked.decide([seen])
                return action, [probability]
        return int(flat.actions[-1]), flat.probabilities[-1].tolist()


def as_freqtrades(trade: ClosedTrade, settings: EnvSettings, candle_ms: int) -> Any:
    leverage = settings.rules.leverage_short if trade.is_short else settings.rules.leverage_long
    is_open = trade.close_ms >= candle_ms
    return SimpleNamespace(
        pair=trade.pair,
        open_date_utc=datetime.fromtimestamp(trade.open_ms / 1000, UTC),
        close_date_utc=None if is_open else datetime.fromtimestamp(trade.close_ms / 1000, UTC),
        open_rate=trade.open_rate,
        is_short=trade.is_short,
        leverage=leverage,
        is_open=is_open,
    )


def history(tape: MarketTape) -> PriceHistory:
    return PriceHistory.from_arrays(tape.timeframe_ms, tape.dates_ms, tape.open, tape.funding, float(tape.close[-1]))


@pytest.fixture(scope="module")
def agent() -> Trading:
    return Trading("agent")


@pytest.mark.parametrize("mode", ["agent", "classic"])
def test_a_bot_decides_as_the_stateful_loop_however_often_it_comes_by(agent: Trading, mode: str) -> None:
    trading = agent if mode == "agent" else Trading(mode)
    memories = LiveMemories()
    assert len(trading.loop.trades) > 2
    for row, action in trading.loop.decisions.items():
        answers = [trading.ask(memories, row) for _ in range(2)]
        assert answers[0] == answers[1]
        assert answers[0][0] == action, row
    assert {2, 4} & set(trading.loop.decisions.values())


def test_a_restarted_bot_remembers_what_an_unbroken_one_does(agent: Trading) -> None:
    unbroken, slept = LiveMemories(), LiveMemories()
    reaching, short = [], []
    # Its first candle that the bot has when it is started again: that of the memory's beginning, and a later one.
    begins = FIRST - WARM_UP_CANDLES - LOOKBACK + 1
    for row in range(FIRST, len(TAPE) - 1):
        expected = agent.ask(unbroken, row)
        if row % 20 == 7:
            reaching.append(agent.ask(LiveMemories(), row, begins) == expected)
            # A bot that was down between.
            reaching.append(agent.ask(slept, row, row - 30 if row > FIRST + 20 else 0) == expected)
            other = agent.ask(LiveMemories(), row, row - 5)
            short.append(np.abs(np.array(other[1]) - expected[1]).max())
    assert len(reaching) == 10
    assert all(reaching)
    assert max(short) > 0


def test_another_policy_begins_with_a_memory_of_its_own(agent: Trading) -> None:
    memories, row = LiveMemories(), FIRST + 40
    agent.ask(memories, row)
    other = Trading("agent", seed=3)
    tape, trades = TAPE.rows(0, row + 2), agent.trades_at(int(TAPE.dates_ms[row + 2]))
    both = [
        kept.at_last_row(other.model, tape, other.settings, history(tape), TRAINED_MS, trades)
        for kept in (memories, LiveMemories())
    ]
    np.testing.assert_array_equal(both[0][0].probabilities, both[1][0].probabilities)


def test_nothing_is_answered_about_a_trade_on_an_earlier_row(agent: Trading) -> None:
    tape = TAPE.rows(0, FIRST + 3)
    _, asked = LiveMemories().at_last_row(agent.model, tape, agent.settings, history(tape), TRAINED_MS, [])
    assert isinstance(asked, AtLastRow)
    seen = Observation(FIRST + 2, 1.0, 0.1, 0.2, 0.1, 1.0, 1.0)
    [decision] = asked.decide([seen])
    assert 0 < decision.exit_probability < 1
    with pytest.raises(RecurrentPolicyError):
        asked.decide([seen._replace(row=FIRST + 1)])


def test_a_row_without_its_lookback_is_not_decided(agent: Trading) -> None:
    tape = random_tape(60, gaps=(59,))
    flat, _ = LiveMemories().at_last_row(agent.model, tape, agent.settings, history(tape), int(tape.dates_ms[0]), [])
    assert flat.probabilities[1:58].any(axis=1).all()
    # After the gap, and on the last row before it, whose candle never came.
    assert not flat.probabilities[58:].any()
    assert isinstance(flat, FlatDecisions)


@pytest.mark.parametrize("mode", ["agent", "classic"])
def test_a_backtests_period_decides_as_the_stateful_loop_after_its_warm_up(agent: Trading, mode: str) -> None:
    trading = agent if mode == "agent" else Trading(mode)
    decider = RecurrentDecider(trading.model, TAPE.features, LOOKBACK)
    settings, known = trading.settings, history(TAPE)
    memory = warm_up(decider, TAPE, settings, FIRST, FLAT, known)
    assert (memory is None) == (mode == "classic")
    stop = len(TAPE) - 1
    result = closed_loop.run(decider, TAPE, settings, FIRST, stop, memory=memory, last_candle_closes=True)
    assert list(result.trades) == trading.loop.trades


def test_a_period_that_begins_in_a_trade_has_lived_through_it(agent: Trading) -> None:
    decider, settings = RecurrentDecider(agent.model, TAPE.features, LOOKBACK), agent.settings

    def account_at(row: int) -> Account:
        """That of the loop over the rules at the open of the candle after a row."""
        return closed_loop.run(decider, TAPE, settings, FIRST, row).account

    cut = next(row for row in range(FIRST + 4, len(TAPE)) if account_at(row).held_candles == 4)
    recollection = Recollection(decider, TAPE, settings)
    for row in range(cut - WARM_UP_CANDLES, cut):
        # Asked four candles ago the policy entered, and has been asked about the trade at every open since then.
        if row <= cut - 4:
            recollection.flat(row, FLAT)
        else:
            account, profit, _ = mark(SCALAR, settings.rules, account_at(row), float(TAPE.open[row + 1]))
            assert account.held_candles == row - cut + 4
            recollection.in_trade(row, account, profit)
    expected = recollection.memory_at(cut)
    remembered = warm_up(decider, TAPE, settings, cut, account_at(cut), history(TAPE))
    assert expected is not None
    assert remembered is not None
    for one, other in zip(remembered, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    flat = warm_up(decider, TAPE, settings, cut, FLAT, history(TAPE))
    assert flat is not None
    assert (flat[0] - expected[0]).abs().max() > 1e-3
