"""Environments on a device: equal to batches of NumPy's, and nothing in a step that the host would have to wait for."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import candle_table, make_settings, make_tape
from device_equivalence import Tapes, assert_equal_to_batches
from device_watch import NoHost
from equivalence import OF_CANDLES, all_rules_settings, eventful_tape

from mtfscalper.envs.device_env import DeviceEnv
from mtfscalper.market.tape import TapeError
from mtfscalper.trading.actions import Action
from mtfscalper.trading.reward import TERMS

ENTRY_MODES = ("classic", "gated", "agent")
QUIET = (100.0, 100.2, 99.8, 100.01)
# A stop at 2 % lies within each of these.
WILD = (100.0, 104.0, 96.0, 100.01)


def quiet_env(n_members: int = 1, n_envs: int = 2, **settings: Any) -> DeviceEnv:
    """Twelve candles on which no stop is hit, begun at the first decidable candle."""
    env = DeviceEnv(
        [make_tape(candle_table(*[QUIET] * 12))] * n_members, make_settings("agent", **settings), n_envs, "cpu"
    )
    env.reset(no_draws(env))
    return env


def no_draws(env: DeviceEnv) -> torch.Tensor:
    return torch.zeros(env.n_members * env.n_envs, dtype=torch.float64)


# Equivalence


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_environments_on_a_device_equal_a_batch(entry_mode: str, random_start: bool) -> None:
    settings = all_rules_settings(entry_mode, random_start=random_start, max_drawdown_ratio=0.05)
    seen = assert_equal_to_batches([eventful_tape()], settings, 8, 200)
    kinds = ("entered", "cut_off", "terminated", "exit_signal", "stop_loss", "roi", "trailing_stop_loss")
    assert min(seen[kind] for kind in kinds) > 0


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_each_of_three_members_equals_a_batch_on_its_own_tapes(entry_mode: str) -> None:
    # What a strategy says of its trades at each candle: leverage, liquidation, stake, exits, gates.
    settings = all_rules_settings(entry_mode, random_start=True, **OF_CANDLES)
    first, *others = (eventful_tape(400 + 50 * seed, seed, terms=True) for seed in range(5))
    members: list[Tapes] = [first, others[:3], others[3]]
    seen = assert_equal_to_batches(members, settings, 4, 120)
    assert min(seen[kind] for kind in ("entered", "cut_off", "exit_signal", "liquidation", "max_duration")) > 0


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_a_fixed_stake_that_is_no_longer_there_ends_episodes_as_in_a_batch(entry_mode: str) -> None:
    rules = {"fixed_stake_ratio": 0.97, "available_ratio": 0.99, "stake_ratio": 0.99, "max_drawdown_ratio": 0.9}
    seen = assert_equal_to_batches([eventful_tape(600)], all_rules_settings(entry_mode, **rules), 8, 120)
    assert seen["terminated"] == 0
    # Many more than the tape's ends alone make.
    assert seen["cut_off"] > 15


def test_rules_and_terms_that_do_nothing_are_left_out_alike() -> None:
    rules = {"trailing_stop": False, "minimal_roi": (), "can_short": False, "max_drawdown_ratio": 1.0}
    settings = replace(all_rules_settings("agent", **rules), state_info=False)
    assert assert_equal_to_batches([eventful_tape(300, gaps=False)], settings, 4, 120)["entered"] > 10
    settings = replace(settings, reward=settings.reward.model_copy(update={f"{n}_weight": 0.0 for n in TERMS}))
    assert assert_equal_to_batches([eventful_tape(300, gaps=False)], settings, 4, 20)["entered"] > 1


def test_a_step_as_one_graph_of_operations_is_the_same_step() -> None:
    settings = all_rules_settings("classic", random_start=True)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    seen = assert_equal_to_batches([eventful_tape(300)], settings, 4, 60, compiler=keep)
    assert seen["entered"] > 50
    assert len(graphs) == 1
    env = DeviceEnv([eventful_tape(300)], settings, 4, "cpu", compiler=keep)
    with pytest.raises(ValueError, match="a recorder without a compiler"):
        env.recorder = print


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_a_member_takes_the_trajectory_that_it_takes_alone(entry_mode: str) -> None:
    settings = all_rules_settings(entry_mode, random_start=True)
    tapes = [eventful_tape(300 + 40 * seed, seed) for seed in range(3)]
    together, alone = DeviceEnv(tapes, settings, 8, "cpu"), DeviceEnv(tapes[1:2], settings, 8, "cpu")
    own = slice(8, 16)
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(24, dtype=torch.float64, generator=generator)
    row = torch.tensor([len(tapes[0]), 0, 0, 0, 0, 0, 0])
    assert torch.equal(together.reset(draws)[own], alone.reset(draws[own]) + row)
    n_ended = 0
    for _ in range(80):
        draws = torch.rand(24, dtype=torch.float64, generator=generator)
        actions = torch.randint(0, 5, (24,), generator=generator)
        ours, theirs = together.step(actions, draws), alone.step(actions[own], draws[own])
        theirs = theirs._replace(observations=theirs.observations + row, terminal=theirs.terminal + row)
        for value, other in zip(ours, theirs, strict=True):
            assert torch.equal(value[own], other)
        n_ended += int(theirs.ended.sum())
    assert n_ended > 3
    assert together.drain()[1] == alone.drain()[0]


# Starts


def test_every_decidable_candle_of_a_member_is_as_likely_a_start() -> None:
    tapes = [make_tape(candle_table(*[QUIET] * n)) for n in (6, 14)]
    env = DeviceEnv(tapes, make_settings("agent", random_start=True), 1200, "cpu")
    evenly = (torch.arange(1200, dtype=torch.float64) / 1200).repeat(2)
    rows, counts = env.reset(evenly)[:, 0].unique(return_counts=True)
    # Rows before the candles [1, 5) of the first tape, and [1, 13) of the second.
    assert rows.tolist() == [*range(0, 4), *range(6, 18)]
    assert counts.tolist() == [300] * 4 + [100] * 12
    # The largest draw there is.
    last = env.reset(torch.full((2400,), 1 - 2.0**-53, dtype=torch.float64))[:, 0]
    assert set(last.tolist()) == {3.0, 17.0}


def test_without_random_starts_a_member_goes_through_its_own_segments_in_turn() -> None:
    settings = all_rules_settings("agent", max_drawdown_ratio=0.99)
    env = DeviceEnv([eventful_tape(100, 1, gaps=False), eventful_tape(150)], settings, 1, "cpu")
    env.reset(no_draws(env))
    begun: list[list[float]] = [[], []]
    for _ in range(450):
        step = env.step(torch.zeros(2, dtype=torch.int64), no_draws(env))
        for member in step.ended.nonzero().flatten().tolist():
            begun[member].append(step.observations[member, 0].item())
    assert begun[0] == [2.0] * len(begun[0])
    # The tape's own rows 2, 52, 77 and 117, behind the 100 of the first member.
    assert begun[1][:5] == [152.0, 177.0, 217.0, 102.0, 152.0]


def test_a_member_whose_candles_leave_nothing_to_decide_is_refused_by_name() -> None:
    signals = np.arange(30) % 5 == 0
    quiet, wild = (make_tape(candle_table(*[candle] * 30), signals) for candle in (QUIET, WILD))
    with pytest.raises(TapeError, match=r"^wild: every trade of 30 candles ends in its entry candle"):
        DeviceEnv([quiet, replace(wild, pair="wild")], make_settings("classic"), 2, "cpu")
    with pytest.raises(TapeError, match="none of 30 candles carries a classic signal"):
        DeviceEnv([quiet, make_tape(candle_table(*[QUIET] * 30))], make_settings("classic"), 2, "cpu")


def test_a_long_run_of_entries_that_die_at_once_is_told_and_passed(caplog: pytest.LogCaptureFixture) -> None:
    # Ten entries in a row end in their own candle; the eleventh lives.
    candles = [QUIET] * 4 + [WILD] * 10 + [QUIET] * 10
    tape = make_tape(candle_table(*candles), np.isin(np.arange(24), [0, *range(3, 14)]))
    settings = make_settings("classic")
    with caplog.at_level(logging.INFO):
        seen = assert_equal_to_batches([tape], settings, 3, 60)
    assert "Up to 11 classic entries in a row end in their entry candle" in caplog.text
    assert seen["stop_loss"] >= 10


# Ends and sums


def test_the_last_candle_cuts_an_episode_off_and_shows_what_it_would_have_gone_on_to() -> None:
    env = quiet_env(n_envs=1)
    for _ in range(10):
        step = env.step(torch.tensor([int(Action.SHORT_ENTER)]), no_draws(env))
    assert (step.ended.tolist(), step.cut_off.tolist()) == ([True], [True])
    # The last candle is the twelfth: what closed last is the eleventh.
    assert step.terminal.tolist() == [[10, 0, 0, 0, 0, 1, 1]]
    assert step.observations.tolist() == [[0, 0, 0, 0, 0, 1, 1]]
    (sums,) = env.drain()
    loss = np.log(1 - 2 * 0.0005)
    assert sums.reward_terms == {"equity": pytest.approx(loss)}
    assert (sums.trades, sums.wins, sums.episodes, sums.episode_decisions) == (1, 0, 1, 10)
    assert (sums.episode_rewards, sums.log_final_equity) == (pytest.approx(loss), pytest.approx(loss))


def test_sums_are_of_each_member_and_begin_anew_when_they_are_drained() -> None:
    env = quiet_env(n_members=2)
    env.step(torch.tensor([0, int(Action.LONG_ENTER), 0, 0]), no_draws(env))
    first, second = env.drain()
    assert first.reward_terms["equity"] < 0
    assert second.reward_terms == {"equity": 0.0}
    assert all(not any(sums[1:]) and not sums.reward_terms["equity"] for sums in env.drain())


# Nothing for the host


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_a_step_never_waits_for_its_device_and_keeps_its_addresses(entry_mode: str) -> None:
    settings = all_rules_settings(entry_mode, random_start=entry_mode != "gated")
    env = DeviceEnv([eventful_tape(120), eventful_tape(100, 1, gaps=False)], settings, 4, "cpu")
    generator = torch.Generator().manual_seed(0)
    draws = [torch.rand(8, dtype=torch.float64, generator=generator) for _ in range(60)]
    actions = [torch.randint(0, 5, (8,), generator=generator) for _ in draws]
    addresses = [column.data_ptr() for column in (env.episode.candle, *env.episode.account)]
    n_ended = torch.zeros((), dtype=torch.int64)
    with NoHost():
        env.reset(draws[0])
        for one_actions, one_draws in zip(actions, draws, strict=True):
            n_ended += env.step(one_actions, one_draws).ended.sum()
    assert n_ended > 5
    assert addresses == [column.data_ptr() for column in (env.episode.candle, *env.episode.account)]


@pytest.mark.parametrize(
    "waits",
    [
        lambda mask: mask.any().item(),
        lambda mask: mask[mask],
        lambda mask: mask.nonzero(),
        lambda mask: mask.masked_select(mask),
        lambda mask: bool(mask.all()),
        lambda mask: mask.to("meta"),
        lambda mask: torch.tensor([1.0]),
        lambda mask: torch.rand(3),
        lambda mask: mask.clone().index_put_((mask,), ~mask[:1]),
    ],
)
def test_what_makes_the_host_wait_is_found(waits: Callable[[torch.Tensor], Any]) -> None:
    mask = torch.tensor([True, False])
    with pytest.raises(AssertionError), NoHost():
        waits(mask)
