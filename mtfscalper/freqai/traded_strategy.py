"""Whose trades are learned: a strategy as freqtrade trades it, checked once before anything is trained."""

from __future__ import annotations

from typing import Any

from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.backtest_run import BacktestRun
from mtfscalper.freqai.candles import CandleSource
from mtfscalper.freqai.fingerprint import run_fingerprint
from mtfscalper.freqai.short_periods import check_candles
from mtfscalper.freqai.strategy_rules import PairTerms, UserParts
from mtfscalper.freqai.trade_decisions import check_asks_for_decisions
from mtfscalper.freqai.unsimulated import name_unsimulated
from mtfscalper.seals import Seals
from mtfscalper.settings import Settings

NO_STRATEGY_SEEN = (
    "No strategy is known yet whose trades would be learned; accepted: train, fit and predict after start, "
    "start_backtesting, start_live or extract_data_and_train_model; remedy: call one of these"
)


class TradedStrategy:
    """A strategy, the candles it trades on, and how its trades are learned.

    :ivar source: makes pairs' candles
    :ivar terms: how the trades of each pair are learned
    """

    def __init__(self, strategy: IStrategy, config: dict[str, Any], settings: Settings, user: UserParts) -> None:
        """
        :param strategy: with the data provider that it trades with, where it has one
        :param config: the freqtrade config
        :param user: the user's own code that the config names
        :raises OperationalException: if its trades cannot be learned
        """
        if settings.rl.decision_mode == "exact":
            check_asks_for_decisions(strategy)
        name_unsimulated(strategy, config, settings)
        data = getattr(strategy, "dp", None)
        self.strategy, self._config, self._settings, self._user = strategy, config, settings, user
        self.source = CandleSource(config, data, settings.rl.entry_mode)
        self.terms = PairTerms(strategy, config, self.source.exchange, settings, user.terms)
        if data is not None:
            check_candles(config, data)

    def backtest(
        self, pair: str, frame: DataFrame, code: str, model: type[object], seals: Seals, archive: Archive
    ) -> BacktestRun:
        """The backtest of a pair.

        :param frame: the strategy's, one row a candle
        :param code: hash of this package's
        :param model: the FreqAI model's class
        """
        environment, freqai = self.terms.environment(pair), self._config["freqai"]
        return BacktestRun(
            candles=self.source.candles(pair, frame),
            other_candles=self.source.other_candles(pair, freqai["feature_parameters"]),
            environment=environment,
            settings=self._settings,
            fingerprint=run_fingerprint(code, self._settings, self._user, environment.rules, freqai, model),
            seals=seals,
            archive=archive,
        )
