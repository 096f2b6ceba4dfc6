"""One candle of an episode: pure, over every namespace, without a host value inside."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from equivalence import all_rules_settings, eventful_tape

from mtfscalper.envs.episodes import EpisodeMap
from mtfscalper.trading.account import FLAT, Account, ExitReason
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import NUMPY, SCALAR, BatchNamespace, map_arrays
from mtfscalper.trading.episode import EpisodeState, advance, enters_by_itself, exit_candle
from mtfscalper.trading.reward import RewardSettings
from mtfscalper.trading.torch_arrays import TorchNamespace

N = 6
EVERYTHING = {"max_drawdown_ratio": 0.05}


def begin(xp: BatchNamespace, game: EpisodeMap) -> EpisodeState:
    """Flat accounts at different candles of the first segment, the last one a candle before its end."""
    _, first, last = game.segments[0]

    def numbers(value: Any) -> Any:
        return xp.asarray(np.full(N, value))

    candle = xp.asarray(np.array([*range(first, first + N - 1), last - 1]))
    account = Account(*map(numbers, FLAT))
    return EpisodeState(account, numbers(0.0), candle, numbers(last), numbers(1.0), numbers(1.0), numbers(False))


@pytest.mark.parametrize("entry_mode", ["classic", "gated", "agent"])
def test_a_step_reads_no_value_on_the_host(entry_mode: str) -> None:
    settings = all_rules_settings(entry_mode, **EVERYTHING)
    game = EpisodeMap.from_tapes(eventful_tape(), settings)
    # Tensors of this device have a shape and no values: whatever reads one on the host fails.
    xp = TorchNamespace("meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(begin(xp, game).candle[0] > 0)
    scene, state = game.scene(settings, xp), begin(xp, game)
    state, fill, terms = advance(xp, scene, state, xp.asarray(np.full(N, Action.LONG_ENTER)))
    for value in (*state[1:], *state.account, *fill, *terms.values(), enters_by_itself(xp, scene, state)):
        assert isinstance(value, torch.Tensor)
        assert (value.device.type, value.shape) == ("meta", (N,))


def test_a_step_changes_nothing_that_it_is_given() -> None:
    settings = all_rules_settings("agent", **EVERYTHING)
    game = EpisodeMap.from_tapes(eventful_tape(), settings)
    scene, state = game.scene(settings, NUMPY), begin(NUMPY, game)
    kept = map_arrays(np.copy, state)
    for _ in range(20):
        before, kept = state, map_arrays(np.copy, state)
        state, _, _ = advance(NUMPY, scene, before, np.arange(N) % 5)
        map_arrays(np.testing.assert_array_equal, before, kept)
    assert (state.candle != kept.candle).any()


def test_the_last_candle_follows_at_once_and_closes_what_is_left_at_its_open() -> None:
    rules = {"stoploss_ratio": 0.9, "minimal_roi": (), "trailing_stop": False, "leverage_long": 1.0}
    settings = replace(all_rules_settings("agent", **rules), reward=RewardSettings())
    game = EpisodeMap.from_tapes(eventful_tape(), settings)
    scene, last = game.scene(settings), game.segments[0].last
    state = EpisodeState(FLAT, 0.0, last - 1, last, 1.0, 1.0, False)
    after, fill, _ = advance(SCALAR, scene, state, Action.LONG_ENTER)
    assert (fill.reason, fill.held_candles) == (ExitReason.FORCE_EXIT, 1)
    assert fill.close_rate == pytest.approx(game.market.candles.open[last], abs=0.01)
    assert exit_candle(state, fill) == after.candle == last
    assert after.account.side == after.profit == 0
    assert after.equity == after.account.equity


def test_a_trade_that_ends_in_the_decided_candle_is_dated_there() -> None:
    settings = all_rules_settings("agent", stoploss_ratio=0.0001, leverage_long=1.0, trailing_stop=False)
    game = EpisodeMap.from_tapes(eventful_tape(), settings)
    first = game.segments[0].first
    state = EpisodeState(FLAT, 0.0, first, game.segments[0].last, 1.0, 1.0, False)
    after, fill, _ = advance(SCALAR, game.scene(settings), state, Action.LONG_ENTER)
    assert (fill.reason, exit_candle(state, fill), after.candle) == (ExitReason.STOP_LOSS, first, first + 1)


@pytest.mark.parametrize("entry_mode", ["classic", "gated", "agent"])
def test_an_account_too_small_to_enter_again_goes_to_the_last_candle(entry_mode: str) -> None:
    rules = {"fixed_stake_ratio": 0.9, "available_ratio": 1.0, "stake_ratio": 1.0, "max_drawdown_ratio": 0.5}
    settings = all_rules_settings(entry_mode, **rules)
    game = EpisodeMap.from_tapes(eventful_tape(), settings)
    scene, (_, first, last) = game.scene(settings), game.segments[0]
    entry = int(game.next_entry[first])
    for equity, goes_to in ((0.9, game.next_entry[entry + 1]), (0.899, last)):
        small = FLAT._replace(equity=equity)
        state = EpisodeState(small, 0.0, entry, last, equity, 1.0, False)
        after, fill, terms = advance(SCALAR, scene, state, Action.NEUTRAL)
        assert fill.entered == (entry_mode == "classic" and equity == 0.9)
        if fill.entered:
            continue
        assert (after.candle, after.terminated, after.equity) == (goes_to, False, equity)
        assert terms["equity"] == 0
