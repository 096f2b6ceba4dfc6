"""Several trainings as one: each rollout, update and evaluation is one batch over all of them, wholly on one device.

Every member is the training that it would have been alone: it has its own candles, seed, rates, weights of the reward
and best policy, and nothing of the others reaches it.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor

from mtfscalper.envs.device_env import RolloutSums
from mtfscalper.files_read import note_all, watched
from mtfscalper.machine import compiles_on, memory_bytes
from mtfscalper.policy.network import features_extractor
from mtfscalper.settings import Settings
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.compiled import CompiledFunction
from mtfscalper.training.device import DeviceUpdate, MemberPPOSettings, minibatch_gradients
from mtfscalper.training.evaluation import Evaluation
from mtfscalper.training.member import Member, Trained
from mtfscalper.training.member_envs import MemberEnvs, in_groups
from mtfscalper.training.member_evaluation import MemberEvaluation
from mtfscalper.training.member_networks import MemberNetworks
from mtfscalper.training.member_rollout import MemberRollout
from mtfscalper.training.memory import check_memory, member_bytes
from mtfscalper.training.request import TrainingRequest
from mtfscalper.training.watching import Watch

logger = logging.getLogger(__name__)


class PopulationError(ValueError):
    """Trainings that cannot be one population. Names what differs, what is accepted, and the remedy."""


class Shape(NamedTuple):
    """What the trainings of a population have in common: the shapes of their arrays, and what no array can hold."""

    net_arch: tuple[int, ...]
    lookback: int
    n_features: int
    n_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int
    normalize_advantage: bool
    clips_values: bool
    precision: str
    device: str

    @classmethod
    def of_job(cls, job: TrainingRequest) -> Shape:
        rl, ppo = job.settings.rl, job.settings.ppo
        return cls(
            net_arch=rl.net_arch,
            lookback=job.settings.lookback,
            n_features=job.train.n_features,
            n_envs=rl.environments,
            n_steps=ppo.n_steps,
            batch_size=ppo.batch_size,
            n_epochs=ppo.n_epochs,
            normalize_advantage=ppo.normalize_advantage,
            clips_values=ppo.clip_range_vf is not None,
            precision=rl.precision,
            device=rl.device,
        )

    def difference(self, other: Shape) -> str | None:
        """Where another shape differs, in words; None where it does not."""
        return next(
            (
                f"{name} is {ours!r} and {theirs!r}"
                for name, ours, theirs in zip(self._fields, self, other, strict=True)
                if ours != theirs
            ),
            None,
        )


def why_not_on_device(settings: Settings) -> str | None:
    """Why a training cannot run wholly on a device, None where it can."""
    rl = settings.rl
    if rl.model_type != "PPO":
        return f"model_type is {rl.model_type!r}, and only PPO does"
    if rl.network is not None:
        return "rl_config.network names a network of your own"
    if rl.activation != "relu":
        return f"activation is {rl.activation!r}, and only 'relu' does"
    if rl.net_arch_value not in (None, rl.net_arch):
        return "net_arch_value differs from net_arch"
    return None


class Population:
    """Members that train together, in the order in which their environments stand.

    :meth:`train` is the whole of it; its parts are for whoever times or compares them.

    :ivar members: in that order
    :ivar networks: of all members
    :ivar settings: what each member learns with
    :ivar rollout: what is collected
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """
        :param members: of one :class:`Shape`
        """
        self.members = [members[at] for at in in_groups([member.stage for member in members])]
        first = self.members[0].job.settings
        self._device = device = self.members[0].model.device
        stages, held_out = [member.stage for member in self.members], [member.held_out for member in self.members]
        tapes = [stage.tape.features for stage in [*stages, *held_out] if stage is not None]
        features = features_extractor(self.members[0].model).as_tape(np.concatenate(tapes))
        networks = MemberNetworks([member.policy for member in self.members], features)
        networks.load()
        self.networks = networks
        self.settings = self._ppo_settings()
        self._generators = [torch.Generator(device).manual_seed(member.job.settings.rl.seed) for member in self.members]
        # Compiled anew for each population, which takes longer than it saves in a training of usual length: only who
        # asks for it has it.
        self._envs = MemberEnvs(stages, first.rl.environments, device, compiled=first.rl.compile is True)
        self.rollout = MemberRollout(
            networks,
            self._envs,
            self._generators,
            n_steps=first.ppo.n_steps,
            n_envs=first.rl.environments,
            device=device,
        )
        n_rows = sum(len(stage.tape) for stage in stages)
        self._evaluation = MemberEvaluation(networks, held_out, n_rows, device)
        compiled = compiles_on(first.rl.compile, device)
        self._gradients = CompiledFunction(minibatch_gradients) if compiled else minibatch_gradients
        self._update = DeviceUpdate(networks, first.ppo.batch_size, first.ppo.n_epochs, self._gradients)

    def train(self) -> None:
        """Train every member to its end, and leave its best policy in its model."""
        self.rollout.reset()
        iteration = 0
        while True:
            self._judge()
            if all(member.has_ended for member in self.members):
                break
            iteration += 1
            self._learn(iteration)
        self.networks.restore_best(self._mask(member.has_best for member in self.members))
        self.networks.store()
        for member in self.members:
            member.report.compiled = isinstance(self._gradients, CompiledFunction) and self._gradients.compiled

    def evaluate(self) -> list[Evaluation | None]:
        """What each member's policy earns on its held-out candles as it is now, None where there are none."""
        return self._evaluation([member.model.num_timesteps for member in self.members])

    def collect(self) -> list[RolloutSums]:
        """Collect a rollout of every member, and say what happened in it."""
        self.rollout.collect(self.settings, self._after_step)
        return self._envs.drain()

    def update(self) -> list[list[float]]:
        """Let the members that have not ended learn from the rollout.

        :return: :data:`mtfscalper.training.device.UPDATE_METRICS` of each member
        """
        learning = self._mask(not member.has_ended for member in self.members)
        metrics: list[list[float]] = self._update.run(
            self.rollout.buffer, self.settings, self._generators, learning
        ).tolist()
        return metrics

    def _judge(self) -> None:
        """Evaluate the members whose turn it is, keep what is best, and end those that have learned."""
        due, learning = [member.is_due for member in self.members], [not member.has_ended for member in self.members]
        if any(due):
            results = self.evaluate()
            judged = list(zip(self.members, due, results, strict=True))
            self.networks.keep_best(
                self._mask(is_due and member.note_evaluation(result) for member, is_due, result in judged)
            )
            for member, is_due, result in judged:
                if is_due:
                    member.ask(result)
        for member, has_learned_more in zip(self.members, learning, strict=True):
            if has_learned_more:
                member.settle()
            member.has_ended = member.has_ended or member.has_learned

    def _learn(self, iteration: int) -> None:
        """A rollout and an update of every member that has not ended."""
        began = time.time()
        sums = self.collect()
        collected = time.time()
        actions = self.rollout.action_counts()
        for member, own, taken in zip(self.members, sums, actions, strict=True):
            if not member.has_ended:
                member.note_rollout(own, taken, iteration)
        metrics = self.update()
        updated = time.time()
        for member, measured in zip(self.members, metrics, strict=True):
            if not member.has_ended:
                member.note_update(measured)
                member.report.phases += [("rollout", began, collected), ("update", collected, updated)]

    def _after_step(self) -> None:
        for member in self.members:
            member.ask(None)
            member.tell_step()

    def _ppo_settings(self) -> MemberPPOSettings:
        each = [member.job.settings.ppo for member in self.members]

        def of_each(name: str) -> Tensor | None:
            values = [getattr(ppo, name) for ppo in each]
            if all(value is None for value in values):
                return None
            return torch.tensor([math.inf if value is None else value for value in values], device=self._device)

        columns: dict[str, Any] = {name: of_each(name) for name in MemberPPOSettings._fields}
        return MemberPPOSettings(**columns | {"normalize_advantage": each[0].normalize_advantage})

    def _mask(self, values: Iterable[bool]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.bool, device=self._device)


def train_population(
    jobs: Sequence[TrainingRequest],
    on_evaluation: Sequence[OnEvaluation | None] | None = None,
    watch: Watch | None = None,
) -> list[Trained]:
    """Train several jobs at once, each as :meth:`mtfscalper.training.job.TrainingJob.run` would alone.

    Where the device's memory does not hold them all, one half is trained after the other.

    :param jobs: of one :class:`Shape`, each of which :func:`why_not_on_device` lets through
    :param on_evaluation: of each job, see :meth:`TrainingJob.run`; one that raises :class:`EndMemberError` ends its own
        training alone
    :param watch: is told how far each of them is
    :return: in the order of the jobs; the models decide on the CPU
    :raises PopulationError: if their shapes differ
    :raises mtfscalper.settings.SettingsError: if one of them needs more memory than there is
    """
    doors = [None] * len(jobs) if on_evaluation is None else on_evaluation
    for job in jobs[1:]:
        if differs := Shape.of_job(jobs[0]).difference(Shape.of_job(job)):
            raise PopulationError(
                f"the trainings of {jobs[0].train.pair} and {job.train.pair} are no population: {differs}; accepted: "
                "one for all; remedy: train them apart"
            )
    device = get_device(jobs[0].settings.rl.device)
    _tell_memory(jobs, device)
    started = time.perf_counter()
    read: dict[str, str] = {}
    try:
        with watched(read) if any(job.has_users_code for job in jobs) else nullcontext():
            members = [Member(job, door, watch) for job, door in zip(jobs, doors, strict=True)]
            Population(members).train()
            seconds = time.perf_counter() - started
            trained = [member.finish(len(members), seconds) for member in members]
        for _, report in trained:
            note_all(report.files_read, read)
        return trained
    except torch.OutOfMemoryError:
        if len(jobs) == 1:
            raise
    # Here, where no frame of what failed holds its tensors any more.
    gc.collect()
    torch.cuda.empty_cache()
    half = (len(jobs) + 1) // 2
    logger.warning(
        "%d trainings at once need more memory than %s has: %d and %d of them follow each other.",
        len(jobs),
        device,
        half,
        len(jobs) - half,
    )
    halves = slice(0, half), slice(half, None)
    return [trained for part in halves for trained in train_population(jobs[part], doors[part], watch)]


def _tell_memory(jobs: Sequence[TrainingRequest], device: torch.device) -> None:
    """Log what a member takes, and refuse one that cannot fit."""
    most = 0
    for job in jobs:
        check_memory(job.settings, memory_bytes(device), job.train.n_features)
        n_candles = len(job.train) + (len(job.evaluation) if job.evaluation is not None else 0)
        most = max(most, member_bytes(job.settings, job.train.n_features, n_candles))
    logger.info("%s: %d at once on %s, %.0f MB or more for each.", _pairs(jobs), len(jobs), device, most / 1e6)
    if device.type == "cpu":
        logger.warning("vec_env 'torch' is made for a GPU; on this machine's processor 'batched' is faster.")


def _pairs(jobs: Sequence[TrainingRequest]) -> str:
    return ", ".join(dict.fromkeys(job.train.pair for job in jobs))
