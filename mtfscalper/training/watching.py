"""How far a training is, told to whoever looks on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from mtfscalper.training.evaluation import Evaluation, Judgement
from mtfscalper.training.request import TrainingRequest

# Between updates, how often a watch is told.
_TELL_SECONDS = 0.5


class TrainingState(NamedTuple):
    """How far one training is.

    :ivar name: whose it is: pair and period
    :ivar part: which of an ensemble's it is, in words, "" for one by itself
    :ivar timesteps: learned from or collected so far
    :ivar timesteps_planned: when it will be over, whole rollouts
    :ivar updated: whether the policy has just been updated, and evaluated where it was due; else it is in a rollout
    :ivar entropy: of the policy in its last update, nats; None where nothing says it
    :ivar has_ended: whether nobody works at it any more, whatever became of it
    :ivar evaluation: the last one, as ``best`` the best one
    """

    name: str
    part: str
    timesteps: int
    timesteps_planned: int
    updated: bool = False
    entropy: float | None = None
    evaluation: Evaluation | None = None
    best: Evaluation | None = None
    has_ended: bool = False


# Is told how far a training is: as it begins, twice a second at most while it collects, after every update, and
# as it ends.
Watch = Callable[[TrainingState], None]


class Watched:
    """Tells a watch of one training."""

    def __init__(
        self, watch: Watch, job: TrainingRequest, timesteps_planned: int, logger: Logger, judgement: Judgement | None
    ) -> None:
        """
        :param logger: stable-baselines3's, of the training
        :param judgement: of its evaluations, None where there are none
        """
        self._watch, self._judgement, self._logger = watch, judgement, logger
        self._state = TrainingState(job.name, job.part, 0, timesteps_planned)
        self._told_at = float("-inf")

    def tell(self, timesteps: int) -> None:
        """Tell of a rollout, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            self._state = self._at(timesteps)
            self._watch(self._state)

    def tell_update(self, timesteps: int) -> None:
        """Tell of an update and its evaluation."""
        judgement = self._judgement
        entropy_loss = self._logger.name_to_value.get("train/entropy_loss")
        self._state = self._at(timesteps)._replace(
            entropy=self._state.entropy if entropy_loss is None else -float(entropy_loss),
            evaluation=judgement.history[-1] if judgement is not None and judgement.history else None,
            best=judgement.best if judgement is not None else None,
        )
        self._watch(self._state._replace(updated=True))

    def _at(self, timesteps: int) -> TrainingState:
        # An algorithm without rollouts of its own size may go a few steps beyond what was asked.
        planned = max(self._state.timesteps_planned, timesteps)
        return self._state._replace(timesteps=timesteps, timesteps_planned=planned)


class WatchCallback(BaseCallback):
    """Lets a watch follow a training of stable-baselines3's loop; stands behind what evaluates."""

    def __init__(self, watch: Watch, job: TrainingRequest, timesteps_planned: int, judgement: Judgement | None) -> None:
        """See :class:`Watched`."""
        super().__init__()
        self._watch, self._job, self._planned, self._judgement = watch, job, timesteps_planned, judgement

    def _on_training_start(self) -> None:
        self._watched = Watched(self._watch, self._job, self._planned, self.logger, self._judgement)
        self._watched.tell(0)

    def _on_rollout_start(self) -> None:
        # Algorithms without rollouts of their own size update every few steps.
        if self.num_timesteps and isinstance(self.model, OnPolicyAlgorithm):
            self._watched.tell_update(self.num_timesteps)

    def _on_step(self) -> bool:
        self._watched.tell(self.num_timesteps)
        return True

    def _on_training_end(self) -> None:
        self._watched.tell_update(self.num_timesteps)
