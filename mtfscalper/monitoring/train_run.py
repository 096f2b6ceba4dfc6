"""``mtfscalper train``: what ``freqtrade backtesting`` trains before it trades, and nothing after that.

Policies, and what they decide on their periods, lie sealed on disk then: the backtest finds all of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from freqtrade.exceptions import OperationalException

from mtfscalper.freqai.backtester import backtest_config, checked_model, loaded_backtester
from mtfscalper.freqai.planned_trainings import PlannedPair
from mtfscalper.freqai.run_planning import PLAN_ONLY, PlanMade
from mtfscalper.settings import Settings

logger = logging.getLogger(__name__)


class Plan(NamedTuple):
    """What a run would train.

    :ivar settings: in force
    :ivar n_features: of a candle
    :ivar timeframe: as freqtrade writes it
    """

    pairs: list[PlannedPair]
    settings: Settings
    n_features: int
    timeframe: str


class TrainedPair(NamedTuple):
    """What became of a pair.

    :ivar trained: policies trained by this run
    :ivar reused: policies of an earlier one
    :ivar failure: why the pair is not all there, None where it is
    """

    pair: str
    trained: int
    reused: int
    failure: str | None = None


class Trained(NamedTuple):
    """What became of a run."""

    pairs: list[TrainedPair]
    seconds: float

    @property
    def is_whole(self) -> bool:
        """Whether everything is there that a backtest needs."""
        return all(pair.failure is None for pair in self.pairs)


def config_of(arguments: Sequence[str], workers: int | None) -> dict[str, Any]:
    """freqtrade's config for a backtest.

    :param arguments: of ``freqtrade backtesting``
    :param workers: as many trainings side by side, in place of the config's own
    :raises OperationalException: if it is none of a backtest with FreqAI
    """
    config = backtest_config(arguments)
    if workers is not None:
        config["freqai"].setdefault("rl_config", {}).update(executor="processes", workers=workers)
    return config


def plan_run(config: dict[str, Any]) -> list[Plan]:
    """What a backtest would train, for each of its strategies. Nothing is trained, and nothing written.

    :raises OperationalException: if it cannot be run
    """
    plans = []
    folder = Path(config["user_data_dir"]) / "models" / str(config["freqai"]["identifier"])
    was_there = folder.exists()
    with loaded_backtester({**config, PLAN_ONLY: True}) as (backtesting, candles, _):
        for strategy in backtesting.strategylist:
            checked_model(backtesting, strategy)
            planned: dict[str, PlannedPair] = {}
            made: PlanMade | None = None
            for pair, frame in candles.items():
                if pair in planned:
                    continue
                try:
                    strategy.advise_indicators(frame.copy(), {"pair": pair})
                except PlanMade as plan:
                    made = plan
                    planned |= {each.pair: each for each in plan.pairs}
            if made is not None:
                plans.append(Plan([*planned.values()], made.settings, made.n_features, strategy.timeframe))
    if not was_there:
        # FreqAI's kitchen makes it, and puts a copy of the config there.
        (folder / Path(config["config_files"][0]).name).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
    return plans


def train_run(config: dict[str, Any]) -> Trained:
    """Train what a backtest lacks; where a pair fails, the others go on.

    :raises OperationalException: if the run cannot begin
    """
    began, pairs = time.perf_counter(), []
    with loaded_backtester(config) as (backtesting, candles, _):
        for strategy in backtesting.strategylist:
            model = checked_model(backtesting, strategy)
            for pair, frame in candles.items():
                failure = None
                try:
                    strategy.advise_indicators(frame.copy(), {"pair": pair})
                except OperationalException as error:
                    failure = str(error)
                    logger.error("%s", error)
                except Exception as error:
                    # The strategy's own.
                    failure = f"{type(error).__name__}: {error}"
                    logger.exception("%s", pair)
                run = model.run_of(pair)
                trained = len(run.reports) if run is not None else 0
                done = len(run.periods) if run is not None else 0
                # A period that failed had begun.
                pairs.append(TrainedPair(pair, trained, max(0, done - trained - (failure is not None)), failure))
    return Trained(pairs, time.perf_counter() - began)
