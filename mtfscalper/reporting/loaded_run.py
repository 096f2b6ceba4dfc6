"""A run with what it is judged by: its candles, its exchange, its strategy and its policies, each read once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from freqtrade.exchange import Exchange
from freqtrade.strategy import IStrategy

from mtfscalper.market.tape import MarketTape
from mtfscalper.reporting.offline_exchange import config_of_run, offline_exchange
from mtfscalper.reporting.policies import RunPolicies
from mtfscalper.reporting.quiet import quiet_freqtrade
from mtfscalper.reporting.run_candles import tapes_of_run
from mtfscalper.reporting.run_result import RunResult
from mtfscalper.reporting.without_freqai import NotRun, strategy_of_run


class LoadedRun(NamedTuple):
    """A run, and what was read beside it.

    :ivar policies: what decided about its trades
    :ivar exchange: with a market for each of its pairs
    :ivar tapes: its candles, by pair
    :ivar loaded_strategy: as its file is now, without FreqAI; or why it cannot be loaded
    """

    result: RunResult
    policies: RunPolicies
    exchange: Exchange
    tapes: Mapping[str, MarketTape]
    loaded_strategy: IStrategy | NotRun

    @property
    def strategy(self) -> IStrategy | None:
        """The strategy, None where it cannot be loaded."""
        return None if isinstance(self.loaded_strategy, NotRun) else self.loaded_strategy


def load_run(result: RunResult, policies: RunPolicies, *, checked: bool = True) -> LoadedRun:
    """Read what lies beside a run.

    :param checked: see :func:`mtfscalper.reporting.run_candles.tapes_of_run`
    :raises ReportError: if a traded pair has no candles, or others than the run
    """
    config = config_of_run(result)
    with quiet_freqtrade():
        exchange = offline_exchange(config, result.pairs)
        tapes = tapes_of_run(result, config, exchange, checked=checked)
    return LoadedRun(result, policies, exchange, tapes, strategy_of_run(result))
