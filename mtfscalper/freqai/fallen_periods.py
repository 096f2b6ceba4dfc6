"""In how many periods of a backtest the rules end the policy's trades, and why: by pair, and once for the whole run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from mtfscalper.freqai.backtest_run import BacktestRun

logger = logging.getLogger(__name__)


class _OfPair(NamedTuple):
    """The periods of one pair.

    :ivar fallen: those that fell back, counted by why
    """

    fallen: Counter[str]
    periods: int

    def in_words(self) -> str:
        why = ", ".join(f"{count} with {reason}" for reason, count in self.fallen.most_common())
        return f"{self.fallen.total()} of {self.periods}" + (f": {why}" if why else "")


class FallenPeriods:
    """Counts the periods of a backtest that fell back (``rl_config.fallback``), pair after pair."""

    def __init__(self) -> None:
        self._pairs: dict[str, _OfPair] = {}

    def note(self, run: BacktestRun, pairs: Iterable[str]) -> None:
        """Take in a pair whose turn is over; after the last one, tell of all in one message.

        A run of one pair has been told by :meth:`mtfscalper.freqai.backtest_run.BacktestRun.tell_doubts`. freqtrade
        passes over pairs without candles, so that a run that ends with one has the messages of each pair alone.

        :param pairs: of the whole run
        """
        if run.settings.rl.fallback is None:
            return
        self._pairs[run.candles.pair] = _OfPair(run.why_fallen(), len(run.periods))
        if not set(self._pairs) >= set(pairs):
            return
        of_pairs, self._pairs = self._pairs, {}
        if len(of_pairs) > 1:
            lines = [f"{pair}: {counted.in_words()}" for pair, counted in of_pairs.items()]
            fallen = sum(counted.fallen.total() for counted in of_pairs.values())
            periods = sum(counted.periods for counted in of_pairs.values())
            logger.log(
                logging.WARNING if fallen else logging.INFO,
                "In %d of %d periods the rules end the policy's trades (rl_config.fallback); by pair:\n  %s",
                fallen,
                periods,
                "\n  ".join(lines),
            )
