"""How long a run will take, roughly, before it has begun, and what is left of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from freqtrade.configuration import TimeRange
from freqtrade.exchange import timeframe_to_minutes

from mtfscalper.monitoring.limits import network_operations
from mtfscalper.monitoring.others import Others
from mtfscalper.settings import Settings

# Imports and loading candles; trading and reading what was saved: of the project's configuration on two processors.
START_SECONDS, END_SECONDS = 12.0, 12.0
# Of a candle, where the strategy is not known yet: as many as the project's.
N_FEATURES = 54
# What updates reach of the machine's products (docs/benchmark-training.md), and environment steps a second
# (docs/benchmarks.md).
ROOFLINE_SHARE, STEPS_PER_SECOND = 0.5, 4000.0
# Workers' start and evaluation, beside rollouts and updates.
OVERHEAD = 1.3


def training_count(config: Mapping[str, Any], timerange: str, n_pairs: int, settings: Settings) -> int:
    """How many trainings a backtest takes."""
    asked = TimeRange.parse_timerange(timerange)
    if asked.starttype != "date" or asked.stoptype != "date":
        # Open ends are known only once the candles are.
        return n_pairs
    days = (asked.stopts - asked.startts) / 86_400
    return n_pairs * max(1, math.ceil(days / settings.backtest_period_days))


def training_seconds(settings: Settings, timeframe: str, n_features: int, peak_flops: float) -> float:
    """About how long one training takes on processors that are free, the members of an ensemble one after the other.

    :param timeframe: as freqtrade writes it
    :param n_features: of a candle
    :param peak_flops: of matrix products by second
    """
    rl, ppo = settings.rl, settings.ppo
    candles = settings.train_period_days * 1440 / timeframe_to_minutes(timeframe) * (1 - settings.test_size)
    rollout = rl.environments * ppo.n_steps
    steps = math.ceil(rl.train_cycles * candles / rollout) * rollout * rl.ensemble
    update, _ = network_operations(n_features * settings.lookback, rl.net_arch, rl.net_arch_value)
    by_step = 1 / STEPS_PER_SECOND + ppo.n_epochs * update / (ROOFLINE_SHARE * peak_flops)
    return OVERHEAD * steps * by_step


def slowed(threads: int, others: Others, processors: int) -> float:
    """How many times as long something takes beside other programs, where all get the same share.

    :param threads: that it would keep busy
    """
    return max(1.0, (threads + max(others.cores, others.waiting)) / processors)


class TimeLeft:
    """What is left of a run: an estimate that every finished training corrects."""

    def __init__(self, n_trainings: int, seconds_each: float, after: float, slower: float = 1.0) -> None:
        """
        :param seconds_each: of a training on free processors
        :param after: seconds that come after freqtrade's run
        :param slower: how many times as long freqtrade's run takes because of other programs, see :func:`slowed`
        """
        seconds_each *= slower
        self._start, self._end = slower * START_SECONDS, slower * END_SECONDS
        self._n, self._each, self._after = n_trainings, seconds_each, after
        self._began: float | None = None
        self._took: list[float] = []

    @property
    def total(self) -> float:
        """Seconds of the whole run, as far as is known."""
        return self._start + self._n * self._mean() + self._end + self._after

    def training_began(self, now: float) -> None:
        """Note that a training began; see :meth:`training_ended`."""
        self._began = now

    def training_ended(self, now: float) -> None:
        """
        :param now: seconds since freqtrade's start
        """
        if self._began is not None:
            self._took.append(now - self._began)
            self._began = None

    def left(self, now: float) -> float:
        """Seconds until everything is done.

        :param now: seconds since freqtrade's start
        """
        if not self._took and self._began is None:
            return max(0.0, self._start - now) + self.total - self._start
        done = len(self._took)
        running = 0.0 if self._began is None else max(0.0, self._mean() - (now - self._began))
        waiting = max(0, self._n - done - (self._began is not None))
        return running + waiting * self._mean() + self._end + self._after

    def _mean(self) -> float:
        return sum(self._took) / len(self._took) if self._took else self._each
