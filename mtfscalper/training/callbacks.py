"""What looks on while a model learns."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from mtfscalper.training.curves import action_counts, record_actions, record_rewards
from mtfscalper.training.evaluation import Evaluation
from mtfscalper.training.report import TrainingReport

# See TrainingJob.run.
OnEvaluation = Callable[[Evaluation | None], None]


class PhaseClock(BaseCallback):
    """Times rollouts and updates, and records once a rollout what was done and rewarded in it."""

    def __init__(self, report: TrainingReport) -> None:
        super().__init__()
        self._report = report
        self._terms: Counter[str] = Counter()
        self._rollout_since: float | None = None
        self._update_since: float | None = None
        # Timesteps of the rollouts so far.
        self._counted = 0

    def _on_rollout_start(self) -> None:
        self._end_update()
        # From the first step on: an evaluation may come first.
        self._rollout_since = None

    def _on_step(self) -> bool:
        if self._rollout_since is None:
            self._rollout_since = time.time()
        return True

    def _on_rollout_end(self) -> None:
        # Off-policy algorithms collect and update every few steps: too many phases to list.
        if not isinstance(self.model, OnPolicyAlgorithm):
            return
        if self._rollout_since is not None:
            self._report.phases.append(("rollout", self._rollout_since, time.time()))
        timesteps = self.num_timesteps - self._counted
        self._counted = self.num_timesteps
        record_rewards(self.logger, self._drain(), timesteps)
        record_actions(self.logger, action_counts(self.model.rollout_buffer.actions))
        self._update_since = time.time()

    def _on_training_end(self) -> None:
        self._end_update()
        self._drain()
        self._report.reward_terms = dict(self._terms)

    def _end_update(self) -> None:
        if self._update_since is not None:
            self._report.phases.append(("update", self._update_since, time.time()))
            self._update_since = None

    def _drain(self) -> Counter[str]:
        drained: Counter[str] = Counter()
        for terms in self.training_env.env_method("drain_reward_terms"):
            drained.update(terms)
        self._terms.update(drained)
        return drained


class Door(BaseCallback):
    """Lets whoever runs a training end it at any step of the environments, by raising."""

    def __init__(self, on_evaluation: OnEvaluation) -> None:
        super().__init__()
        self._on_evaluation = on_evaluation

    def _on_step(self) -> bool:
        self._on_evaluation(None)
        return True
