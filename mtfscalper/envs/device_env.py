"""Trading environments wholly on one device: the rules over tensors that stay there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from mtfscalper.envs.device_episodes import DevicePlay, Recorder, Running, StartTable, has_ended
from mtfscalper.envs.episodes import EnvSettings, EpisodeMap
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.episode import EpisodeState
from mtfscalper.trading.torch_arrays import TorchNamespace

# What torch.compile needs as its ``options`` so that no product is fused with a sum: a price step or a stop could flip
# (https://github.com/pytorch/pytorch/issues/122260). On the CPU it fuses none.
EXACT_ARITHMETIC: dict[str, Any] = {"emulate_precision_casts": True}

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]


class DeviceStep(NamedTuple):
    """What a step says, tensors of shape (n_members * n_envs,).

    :ivar observations: compact, float32, shape (n_members * n_envs, 7): of the next decision, the first of the next
        episode where one ended
    :ivar rewards: float32
    :ivar ended: whether an episode ended with this step
    :ivar cut_off: whether it did at its last candle rather than by the drawdown (stable-baselines3's
        ``TimeLimit.truncated``)
    :ivar terminal: compact observations before any new start: what an ended episode would have gone on to
    """

    observations: Tensor
    rewards: Tensor
    ended: Tensor
    cut_off: Tensor
    terminal: Tensor


class RolloutSums(NamedTuple):
    """What happened to one member's environments since the last :meth:`DeviceEnv.drain`.

    :ivar reward_terms: sums of the reward's terms by name
    :ivar trades: trades that were closed
    :ivar wins: those closed with a profit
    :ivar episodes: episodes that ended
    :ivar episode_rewards: sum of the rewards of those
    :ivar episode_decisions: sum of their lengths, in decisions
    :ivar log_final_equity: sum of the logarithms of their final equities
    """

    reward_terms: dict[str, float]
    trades: int
    wins: int
    episodes: int
    episode_rewards: float
    episode_decisions: int
    log_final_equity: float


class DeviceEnv:
    """As many environments as :class:`mtfscalper.envs.batched_env.BatchedTradingEnv` has, for each of some members.

    Environment e belongs to member e // n_envs and plays on the candles of that member alone.

    Nothing in :meth:`reset` and :meth:`step` is read by the host, has a shape that depends on values, or draws random
    numbers; what outlives a step lies at fixed addresses. After a step for warming up, a step can be captured as a CUDA
    graph. Actions are therefore not checked: one that is none makes the device fail, or worse.
    """

    def __init__(
        self,
        tapes: Sequence[MarketTape | Sequence[MarketTape]],
        settings: EnvSettings,
        n_envs: int,
        device: str | torch.device,
        *,
        compiler: Compiler | None = None,
    ) -> None:
        """
        :param tapes: of each member one, or several; rows of observations count along all of them laid end to end
        :param settings: of all members; ``record_trades`` is without effect, see :attr:`recorder`
        :param n_envs: how many environments each member has
        :param compiler: makes a function of tensors faster, as ``torch.compile`` does with :data:`EXACT_ARITHMETIC`; it
            is given a step as one graph of operations, at the first :meth:`step`. None to run them one by one
        :raises mtfscalper.market.tape.TapeError: if a member's candles leave nothing to decide
        """
        each = [[tape] if isinstance(tape, MarketTape) else list(tape) for tape in tapes]
        members = [EpisodeMap.from_tapes(own, settings) for own in each]
        game = EpisodeMap.from_tapes([tape for own in each for tape in own], settings)
        self.settings = settings
        self.n_members, self.n_envs = len(members), n_envs
        self._xp = xp = TorchNamespace(device)
        self._play = DevicePlay(xp, settings, game)
        self._starts = StartTable(xp, self._play, game, members)
        self._first_row = xp.asarray(self._starts.first_rows.repeat(n_envs))
        self._n_rows = xp.asarray(self._starts.n_rows.repeat(n_envs))
        self._terms = [term.name for term in self._play.scene.terms]
        # What outlives a step, written in place.
        started = self._at_starts(self._first_row)
        self._running = [matrix.clone(memory_format=torch.contiguous_format) for matrix in started]
        self._zeros = torch.zeros(len(self._first_row), dtype=torch.float64, device=xp.device)
        n_sums = len(self._terms) + 2
        self._gained = self._zeros.repeat(n_sums, 1)
        self._finished = self._zeros.repeat(4, 1)
        self._compiler = compiler
        self._step_function: Callable[..., tuple[Tensor, ...]] | None = None if compiler else self._worked_out

    @property
    def recorder(self) -> Recorder | None:
        """Called at every candle with the states before it, its fills, and the environments they are true of."""
        return self._play.recorder

    @recorder.setter
    def recorder(self, recorder: Recorder | None) -> None:
        if self._compiler is not None:
            raise ValueError("a compiled step calls nobody; accepted: a recorder without a compiler")
        self._play.recorder = recorder

    @property
    def episode(self) -> EpisodeState:
        """What the environments' accounts are in the middle of: views, which the next step writes over."""
        running: Running = self._starts.layout.unpack(self._running)
        return running.episode

    def reset(self, draws: Tensor) -> Tensor:
        """Start an episode in every environment.

        :param draws: numbers in [0, 1), float64, shape (n_members * n_envs,): the start of each, among the decidable
            candles of its member, each as likely as the others
        :return: compact observations, float32, shape (n_members * n_envs, 7)
        """
        rows = self._drawn_rows(draws)
        for kept, fresh in zip(self._running, self._at_starts(rows), strict=True):
            kept.copy_(fresh)
        if self._play.enters_by_itself:
            self._gained += self._starts.gains(rows)
        return self._starts.observations(rows).T

    def step(self, actions: Tensor, draws: Tensor) -> DeviceStep:
        """Decide, then run each environment to its next decision; where that ends its episode, begin the next one.

        :param actions: members of :class:`mtfscalper.trading.actions.Action`, int64, shape (n_members * n_envs,)
        :param draws: as of :meth:`reset`, of those that begin; without ``random_start`` they are not used
        """
        kept = (*self._running, self._gained, self._finished)
        if self._step_function is None:
            assert self._compiler is not None
            # Operation by operation, as a run shows them: the compiler would stumble over the Python around them.
            self._step_function = self._compiler(make_fx(self._worked_out)(actions, draws, *kept))
        results = self._step_function(actions, draws, *kept)
        for old, new in zip(kept, results, strict=False):
            old.copy_(new)
        return DeviceStep(*results[len(kept) :])

    def drain(self) -> list[RolloutSums]:
        """What happened to each member since the last call. It alone reads from the device: to be called seldom."""
        sums = torch.cat((self._gained, self._finished)).view(-1, self.n_members, self.n_envs).sum(dim=2)
        self._gained.zero_()
        self._finished.zero_()
        n_terms = len(self._terms)
        drained = []
        for values in sums.T.tolist():
            trades, wins, episodes, earned, decisions, log_equity = values[n_terms:]
            terms = dict(zip(self._terms, values, strict=False))
            drained.append(
                RolloutSums(terms, round(trades), round(wins), round(episodes), earned, round(decisions), log_equity)
            )
        return drained

    def _worked_out(self, actions: Tensor, draws: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        """A step as a pure function.

        :param kept: what outlives a step: the running environments, and both sums
        :return: the same after the step, and the fields of its :class:`DeviceStep`
        """
        *running, gained, finished = kept
        xp, starts = self._xp, self._starts
        before: Running = starts.layout.unpack(running)
        episode, gains = self._play.decide(before.episode, actions)
        ended = has_ended(episode)
        reward = gains.reward(before.carried)
        earned, decisions = before.earned + reward, before.decisions + 1.0
        terminal = self._play.observed(episode)

        rows = self._drawn_rows(draws) if self.settings.random_start else before.following
        going_on = starts.layout.pack(Running(episode, self._zeros, before.following, earned, decisions))
        after = [torch.where(ended, *pair) for pair in zip(starts.running(rows), going_on, strict=True)]
        gained = gained + torch.stack((*gains.terms, gains.trades, gains.wins))
        if self._play.enters_by_itself:
            gained = gained + xp.where(ended, starts.gains(rows), 0.0)
        ends = torch.stack((self._zeros + 1.0, earned, decisions, torch.log(episode.equity)))
        finished = finished + xp.where(ended, ends, 0.0)
        observations = torch.where(ended, starts.observations(rows), terminal)
        cut_off = ended & ~episode.terminated
        return *after, gained, finished, observations.T, reward.to(torch.float32), ended, cut_off, terminal.T

    def _at_starts(self, rows: Tensor) -> list[Tensor]:
        """The matrices of environments that begin."""
        return [fresh.expand(-1, len(rows)) for fresh in self._starts.running(rows)]

    def _drawn_rows(self, draws: Tensor) -> Tensor:
        # The largest double below 1, times a whole number, stays below that number.
        return self._first_row + (draws * self._n_rows).to(torch.int64)
