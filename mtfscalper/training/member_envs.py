"""The environments of a population: those of each member on its own candles, stepped as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from mtfscalper.envs.device_env import EXACT_ARITHMETIC, DeviceEnv, DeviceStep, RolloutSums
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.account import Candle
from mtfscalper.training.compiled import CompiledFunction


class Stage:
    """What a member plays on: candles, and how they are traded and rewarded."""

    def __init__(self, tape: MarketTape, settings: EnvSettings) -> None:
        self.tape = tape
        self.settings = settings
        self._columns = tuple(getattr(tape, name) is not None for name in Candle._fields)

    def plays_with(self, other: Stage) -> bool:
        """Whether one call of the rules can step both: their rules, reward and columns are the same."""
        return self._columns == other._columns and self.settings == other.settings


def in_groups(stages: Sequence[Stage]) -> list[int]:
    """The order of stages in which those that play with each other are neighbours.

    :return: positions in ``stages``
    """
    groups: list[list[int]] = []
    for at, stage in enumerate(stages):
        for group in groups:
            if stages[group[0]].plays_with(stage):
                group.append(at)
                break
        else:
            groups.append([at])
    return [at for group in groups for at in group]


class MemberEnvs:
    """A :class:`mtfscalper.envs.device_env.DeviceEnv` for each run of stages that play with each other.

    Shapes are a DeviceEnv's: (n_members * n_envs,), member by member.
    """

    def __init__(self, stages: Sequence[Stage], n_envs: int, device: torch.device, *, compiled: bool = False) -> None:
        """
        :param stages: of each member, in the order of :func:`in_groups`
        :param n_envs: environments of each member
        :param compiled: whether steps are compiled, where the compiler works
        """
        runs: list[list[Stage]] = []
        for stage in stages:
            if runs and runs[-1][0].plays_with(stage):
                runs[-1].append(stage)
            else:
                runs.append([stage])
        compiler = partial(CompiledFunction, options=EXACT_ARITHMETIC) if compiled else None
        self._envs = [
            DeviceEnv([stage.tape for stage in run], run[0].settings, n_envs, device, compiler=compiler) for run in runs
        ]
        self._sizes = [len(run) * n_envs for run in runs]
        self._first_rows: list[int] = []
        first_row = 0
        for run in runs:
            self._first_rows.append(first_row)
            first_row += sum(len(stage.tape) for stage in run)

    def reset(self, draws: Tensor) -> Tensor:
        """See :meth:`DeviceEnv.reset`."""
        parts = zip(self._envs, torch.split(draws, self._sizes), strict=True)
        return self._joined([env.reset(own) for env, own in parts])

    def step(self, actions: Tensor, draws: Tensor) -> DeviceStep:
        """See :meth:`DeviceEnv.step`."""
        parts = zip(self._envs, torch.split(actions, self._sizes), torch.split(draws, self._sizes), strict=True)
        steps = [env.step(own_actions, own_draws) for env, own_actions, own_draws in parts]
        return DeviceStep(
            self._joined([step.observations for step in steps]),
            _cat([step.rewards for step in steps]),
            _cat([step.ended for step in steps]),
            _cat([step.cut_off for step in steps]),
            self._joined([step.terminal for step in steps]),
        )

    def drain(self) -> list[RolloutSums]:
        """What happened to each member since the last call, see :meth:`DeviceEnv.drain`."""
        return [member for env in self._envs for member in env.drain()]

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """Observations of all members, their rows counted along all candles."""
        shifted = []
        for part, first_row in zip(parts, self._first_rows, strict=True):
            shifted.append(torch.cat([part[:, :1] + first_row, part[:, 1:]], dim=1) if first_row else part)
        return _cat(shifted)


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
