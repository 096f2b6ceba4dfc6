"""What TensorBoard shows of a training, each figure at the timestep that it is true of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, Logger, TensorBoardOutputFormat

from mtfscalper.trading.account import EXIT_REASON_NAMES, ExitReason
from mtfscalper.trading.actions import N_ACTIONS, Action
from mtfscalper.training.evaluation import Evaluation, Judgement
from mtfscalper.training.report import TrainingReport
from mtfscalper.training.request import TrainingRequest

# What the table of TensorBoard's HPARAMS page shows beside the settings: the last value of each.
_COMPARED = ("eval/log_return", "eval/trades", "eval/win_ratio", "best/log_return")


def settle(logger: Logger, timesteps: int) -> None:
    """Write into TensorBoard's file what was recorded since the last rollout.

    stable-baselines3 writes after a rollout: what an update and its evaluation recorded would get the timestep of the
    next rollout, and the last of them none.
    """
    names = sorted(logger.name_to_value)
    values = {name: logger.name_to_value[name] for name in names}
    excluded = {name: logger.name_to_excluded[name] for name in names}
    boards = [format for format in logger.output_formats if isinstance(format, TensorBoardOutputFormat)]
    for board in boards:
        board.write(values, excluded, timesteps)
    if boards:
        for name in names:
            # What is printed is still printed, with the next rollout.
            logger.name_to_excluded[name] = (*(excluded[name] or ()), "tensorboard")


def record_settings(logger: Logger, job: TrainingRequest) -> None:
    """Record what a training is made of, for TensorBoard's HPARAMS page."""
    rl, ppo = job.settings.rl, job.settings.ppo
    chosen: dict[str, Any] = {
        **(ppo.model_dump() if rl.model_type == "PPO" else job.settings.other_algorithm_kwargs),
        **{name: value for name, value in job.env.reward.model_dump().items() if value and name.endswith("_weight")},
        **job.env.reward.terms,
        **{name: getattr(rl, name) for name in ("model_type", "net_arch", "n_envs", "train_cycles", "entry_mode")},
        "seed": rl.seed,
        "lookback": job.settings.lookback,
        "pair": job.train.pair,
        "period": job.period,
    }
    plain = {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in chosen.items()
    }
    exclude = ("stdout", "log", "json", "csv")
    logger.record("hparams", HParam(plain, dict.fromkeys(_COMPARED, 0)), exclude=exclude)


def record_actions(logger: Logger, counts: npt.ArrayLike) -> None:
    """Record how often each action was taken in a rollout, as shares.

    :param counts: by :class:`mtfscalper.trading.actions.Action`, shape (5,)
    """
    shares = np.asarray(counts, dtype=np.float64)
    for action, share in zip(Action, shares / max(shares.sum(), 1.0), strict=True):
        logger.record(f"actions/{action.name.lower()}", float(share))


def record_rewards(logger: Logger, terms: Mapping[str, float], timesteps: int) -> None:
    """Record what a rollout was rewarded with, by term and in all, as means over its timesteps.

    :param terms: sums by name
    :param timesteps: of the rollout
    """
    for name, total in terms.items():
        logger.record(f"reward/{name}", total / timesteps)
    logger.record("rollout/reward", sum(terms.values()) / timesteps)


def record_time(logger: Logger, seconds: Mapping[str, float]) -> None:
    """Record what time went into since the last evaluation, as shares.

    :param seconds: by ``rollout``, ``update`` and ``evaluation``
    """
    total = sum(seconds.values())
    if total > 0:
        for name, spent in seconds.items():
            logger.record(f"time/{name}_share", spent / total)


def record_trades(logger: Logger, evaluation: Evaluation) -> None:
    """Record how the trades of an evaluation ended, as shares of them, and how long they were."""
    if not evaluation.trades or not evaluation.exits:
        return
    logger.record("eval/trade_candles", evaluation.held_candles)
    for reason in ExitReason:
        if reason is not ExitReason.NONE:
            share = evaluation.exits[reason] / evaluation.trades
            logger.record(f"exits/{EXIT_REASON_NAMES[reason]}", share)


def action_counts(actions: Any) -> npt.NDArray[np.int64]:
    """How often each action stands in an array or tensor, shape (5,)."""
    taken = actions.cpu().numpy() if hasattr(actions, "cpu") else np.asarray(actions)
    return np.bincount(taken.astype(np.int64).ravel(), minlength=N_ACTIONS)


class Curves:
    """The figures of one training that do not belong to a rollout."""

    def __init__(self, report: TrainingReport, judgement: Judgement | None) -> None:
        """
        :param report: whose phases are noted as they pass
        """
        self._report, self._judgement = report, judgement
        self._phases = self._evaluations = 0

    def settle(self, logger: Logger, timesteps: int) -> None:
        """Record what has passed since the last time, and write it."""
        phases = self._report.phases[self._phases :]
        history: Sequence[Evaluation] = self._judgement.history if self._judgement is not None else ()
        made = history[self._evaluations :]
        self._phases, self._evaluations = len(self._report.phases), len(history)
        spent = {"rollout": 0.0, "update": 0.0, "evaluation": sum(evaluation.seconds for evaluation in made)}
        for name, start, stop in phases:
            spent[name] += stop - start
        record_time(logger, spent)
        if made:
            record_trades(logger, made[-1])
        if self._judgement is not None and self._judgement.best is not None:
            logger.record("best/log_return", self._judgement.best.log_return)
        settle(logger, timesteps)


class CurvesCallback(BaseCallback):
    """Writes :class:`Curves` of a training of stable-baselines3's loop; stands behind what times and evaluates."""

    def __init__(self, curves: Curves, job: TrainingRequest, every_timesteps: int) -> None:
        """
        :param every_timesteps: write at the first rollout start after so many timesteps since the last
        """
        super().__init__()
        self._curves, self._job, self._every = curves, job, every_timesteps
        self._settled_at = 0

    def _on_training_start(self) -> None:
        record_settings(self.logger, self._job)
        settle(self.logger, 0)

    def _on_rollout_start(self) -> None:
        if self.num_timesteps - self._settled_at >= self._every:
            self._settle()

    def _on_training_end(self) -> None:
        self._settle()
        # What is printed, if anything is.
        self.logger.dump(self.num_timesteps)

    def _on_step(self) -> bool:
        return True

    def _settle(self) -> None:
        self._settled_at = self.num_timesteps
        self._curves.settle(self.logger, self.num_timesteps)
