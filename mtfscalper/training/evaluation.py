"""Evaluation: one closed-loop pass of the deterministic policy over the held-out candles."""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy import closed_loop
from mtfscalper.settings import EvaluationMode
from mtfscalper.trading.account import EXIT_REASON_NAMES
from mtfscalper.trading.trades import ClosedTrade
from mtfscalper.training.mean_interval import lower_end, standard_error
from mtfscalper.training.report import TrainingReport

# Smaller than where speed counts: the lookbacks of many rows would be the most memory that a training takes.
_MAX_BATCH = 256


class Evaluation(NamedTuple):
    """One pass over some candles, each stretch between two gaps from a new account.

    :ivar log_return: logarithm of final equity after costs, summed over the stretches
    :ivar log_return_error: its standard error, by how much the stretches differ; 0 for one, which shows no spread
    :ivar held_candles: length of a trade in the mean, candles from its entry's to its exit's
    :ivar exits: trades by :class:`mtfscalper.trading.account.ExitReason`, shape (8,)
    """

    timesteps: int
    log_return: float
    trades: int
    win_ratio: float
    seconds: float
    log_return_error: float = 0.0
    stretches: int = 1
    held_candles: float = 0.0
    exits: tuple[int, ...] = ()

    @classmethod
    def over(
        cls,
        timesteps: int,
        log_returns: Sequence[float],
        candles: Sequence[int],
        exits: Sequence[int],
        wins: int,
        held_candles: float,
        seconds: float,
    ) -> Evaluation:
        """Of what each stretch gave.

        :param candles: of each: a longer one may earn more
        :param exits: trades by :class:`mtfscalper.trading.account.ExitReason`, of all stretches
        :param wins: how many of these trades won
        :param held_candles: lengths of these trades, summed
        """
        n, trades = len(log_returns), sum(exits)
        error = sum(candles) * standard_error(log_returns, candles) if n > 1 else 0.0
        win_ratio, held = (wins / trades, held_candles / trades) if trades else (0.0, 0.0)
        return cls(timesteps, float(sum(log_returns)), trades, win_ratio, seconds, error, n, held, tuple(exits))

    @property
    def lower_log_return(self) -> float:
        """The lower end of the log return's interval; with one stretch the log return itself."""
        if self.stretches < 2:
            return self.log_return
        return lower_end(self.log_return, self.log_return_error, self.stretches)

    def figures(self) -> dict[str, float]:
        """What a report keeps of it, by name."""
        return {name: value for name, value in self._asdict().items() if name != "exits"}


def can_evaluate(tape: MarketTape, settings: EnvSettings) -> bool:
    """Whether a tape has a run of candles that is long enough for an evaluation."""
    return any(stop - start >= shortest_run(settings) for start, stop in tape.segments)


def shortest_run(settings: EnvSettings) -> int:
    """Candles without a gap that an evaluation needs at least."""
    return settings.lookback + 2


def evaluate(model: BaseAlgorithm, tape: MarketTape, settings: EnvSettings) -> Evaluation:
    """Play every segment of a tape once, deterministically, closing an open trade at its end."""
    started = time.perf_counter()
    log_returns, candles = [], []
    trades: list[ClosedTrade] = []
    for segment, result in play_segments(model, tape, settings):
        log_returns.append(math.log(result.equity))
        candles.append(len(segment))
        trades += result.trades
    exits = Counter(trade.exit_reason for trade in trades)
    wins = sum(trade.profit_ratio > 0 for trade in trades)
    held = sum(trade.close_ms - trade.open_ms for trade in trades) / tape.timeframe_ms
    by_reason = [exits[name] for name in EXIT_REASON_NAMES.values()]
    seconds = time.perf_counter() - started
    return Evaluation.over(model.num_timesteps, log_returns, candles, by_reason, wins, held, seconds)


def play_segments(
    model: BaseAlgorithm, tape: MarketTape, settings: EnvSettings
) -> Iterator[tuple[MarketTape, closed_loop.ClosedLoop]]:
    """What a policy does on every segment of a tape that is long enough, from a new account each."""
    for segment in tape.split():
        first_row = settings.lookback - 1
        if len(segment) < shortest_run(settings):
            continue
        decider = closed_loop.loop_decider(model, segment.features, settings.lookback, _MAX_BATCH)
        yield (
            segment,
            closed_loop.run(decider, segment, settings, first_row, len(segment) - 1, last_candle_closes=True),
        )


class Judgement:
    """When the policy of one training is evaluated, what was found each time, and which was the best.

    The best is the one with the highest log return; of equals, the later one, which has seen more.

    :ivar history: every evaluation
    """

    def __init__(self, every_timesteps: int, mode: EvaluationMode = "mean") -> None:
        """
        :param every_timesteps: evaluate after so many timesteps since the last time
        :param mode: "lower" goes by the lower end of the log return's interval in its place
        """
        self._score = "lower_log_return" if mode == "lower" else "log_return"
        self.history: list[Evaluation] = []
        self.best: Evaluation | None = None
        self._every = every_timesteps

    def is_due(self, timesteps: int) -> bool:
        """Whether to evaluate before the next rollout."""
        last = self.history[-1].timesteps if self.history else 0
        return timesteps - last >= self._every

    def note(self, result: Evaluation, logger: Logger) -> bool:
        """
        :return: whether it is the best so far
        """
        self.history.append(result)
        for name in dict.fromkeys(("log_return", "trades", "win_ratio", self._score)):
            logger.record(f"eval/{name}", getattr(result, name))
        if self.best is not None and getattr(result, self._score) < getattr(self.best, self._score):
            return False
        self.best = result
        return True

    def tell(self, report: TrainingReport) -> None:
        """Write into a report what was found."""
        report.evaluations = [result.figures() for result in self.history]
        report.best_evaluation = self.best.figures() if self.best else None


class KeepBest(BaseCallback):
    """Evaluates the policy after every update and keeps the parameters of the best one.

    The first rollout's policy is untrained and is not evaluated.

    :ivar judgement: what was found
    """

    def __init__(
        self,
        tape: MarketTape,
        settings: EnvSettings,
        every_timesteps: int = 1,
        on_evaluation: Callable[[Evaluation], None] | None = None,
        mode: EvaluationMode = "mean",
    ) -> None:
        """
        :param every_timesteps: evaluate at the first rollout start after so many timesteps since the last
        :param on_evaluation: is told each evaluation, and may raise
        :param mode: see :class:`Judgement`
        """
        super().__init__()
        self.judgement = Judgement(every_timesteps, mode)
        self._tape = tape
        self._settings = settings
        self._on_evaluation = on_evaluation
        # On disk, one array after the other: a fifth of what a training keeps otherwise, and read once.
        self._best_parameters = tempfile.TemporaryFile()  # noqa: SIM115 - until close()

    def restore(self) -> None:
        """Give the model the best parameters seen."""
        if self.judgement.best is not None:
            self._best_parameters.seek(0)
            for value in self.model.policy.state_dict().values():
                value.copy_(torch.from_numpy(np.load(self._best_parameters)))

    def close(self) -> None:
        """Give up the file; there is nothing to restore afterwards."""
        self._best_parameters.close()

    def _on_rollout_start(self) -> None:
        if self.judgement.is_due(self.model.num_timesteps):
            self._evaluate()

    def _on_training_end(self) -> None:
        self._evaluate()

    def _on_step(self) -> bool:
        return True

    def _evaluate(self) -> None:
        result = evaluate(self.model, self._tape, self._settings)
        if self.judgement.note(result, self.logger):
            self._best_parameters.seek(0)
            for value in self.model.policy.state_dict().values():
                np.save(self._best_parameters, value.cpu().numpy())
        if self._on_evaluation is not None:
            self._on_evaluation(result)
