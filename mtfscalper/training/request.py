"""What a training is made of, whoever runs it."""

from __future__ import annotations

import logging
import os
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Self

import torch

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.user_network import UserNetwork
from mtfscalper.settings import Settings
from mtfscalper.training.evaluation import can_evaluate, shortest_run
from mtfscalper.training.report import TrainingReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainingRequest:
    """What one training is made of. It can be pickled.

    :ivar train: candles to train on
    :ivar evaluation: held-out candles, or None to return the last policy
    :ivar env: how candles are traded and rewarded
    :ivar seed: in place of the settings' own
    :ivar initial_model: zip of a model to go on from
    :ivar tensorboard_dir: where TensorBoard's files go, None for none
    :ivar network: the class that ``rl_config.network`` names
    :ivar period: of the pair that the policy is for, as people call it, "" where there are none
    :ivar judging: held-out candles that choose nothing: the policy that was chosen is judged on them, see
        :mod:`mtfscalper.training.guard`
    :ivar part: which of several trainings it is, in words for the log, "" for one by itself
    """

    settings: Settings
    train: MarketTape
    evaluation: MarketTape | None
    env: EnvSettings
    _: KW_ONLY
    seed: int | None = None
    initial_model: bytes | None = None
    tensorboard_dir: Path | None = None
    network: UserNetwork | None = None
    period: str = ""
    judging: MarketTape | None = None
    part: str = ""

    @property
    def name(self) -> str:
        """Whose policy it is: pair and period."""
        return " ".join(filter(None, (self.train.pair, self.period)))

    @property
    def board_name(self) -> str:
        """The folder of its files for TensorBoard, to which stable-baselines3 adds a number."""
        return self.period.replace(":", "") or self.settings.rl.model_type

    @property
    def has_users_code(self) -> bool:
        """Whether code of the user's takes part, which may read files."""
        return bool(self.env.own_terms) or self.env.own_reward is not None or self.network is not None

    def seeded(self) -> Self:
        """The same training, its seed among its settings."""
        if self.seed is None:
            return self
        rl = self.settings.rl.model_copy(update={"seed": self.seed})
        return replace(self, settings=self.settings.model_copy(update={"rl": rl}), seed=None)

    def begin_report(self) -> TrainingReport:
        """What is known of the training before it begins."""
        return TrainingReport(
            pair=self.train.pair,
            model_type=self.settings.rl.model_type,
            timesteps_asked=self.settings.rl.train_cycles * len(self.train),
            process_id=os.getpid(),
            torch_threads=torch.get_num_threads(),
            torch_interop_threads=torch.get_num_interop_threads(),
            train_candles=len(self.train),
            train_tape_sha256=self.train.digest(),
            evaluation_candles=len(self.evaluation) if self.evaluation is not None else 0,
        )

    def evaluation_every(self, rollout_steps: int) -> int | None:
        """Timesteps between two evaluations; None, and one log line, where nothing can be evaluated."""
        if self.evaluation is None or not can_evaluate(self.evaluation, self.env):
            logger.info(
                "No evaluation: the held-out part has no run of %d candles (data_split_parameters.test_size); the last "
                "policy is returned.",
                shortest_run(self.env),
            )
            return None
        return self.pause(rollout_steps)

    def pause(self, rollout_steps: int) -> int:
        """Timesteps between two looks at a training: a rollout.

        A2C and the off-policy algorithms call every few steps a rollout; for them, one pass over the training candles
        is a fair pause.
        """
        return rollout_steps if 10 * rollout_steps >= len(self.train) else len(self.train)
