"""Whose trades are learned: a strategy as freqtrade trades it, checked once before anything is trained."""

from __future__ import annotations

from typing import Any

from freqtrade.freqai.data_drawer import FreqaiDataDrawer
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.backtest_run import BacktestRun, PeriodKitchen
from mtfscalper.freqai.candles import CandleSource, PairCandles
from mtfscalper.freqai.fingerprint import run_fingerprint
from mtfscalper.freqai.short_periods import check_candles
from mtfscalper.freqai.strategy_rules import PairTerms, UserParts
from mtfscalper.freqai.trade_decisions import check_asks_for_decisions
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
        candles = self.terms.read(self.source.candles(pair, frame), frame)
        environment, freqai = self.terms.environment(pair), self._config["freqai"]
        return BacktestRun(
            candles=candles,
            other_candles=self.source.other_candles(pair, freqai["feature_parameters"]),
            environment=environment,
            settings=self._settings,
            fingerprint=run_fingerprint(code, self._settings, self._user, environment.rules, freqai, model),
            seals=seals,
            archive=archive,
        )

    def candles_to_decide(self, pair: str, frame: DataFrame) -> PairCandles:
        """The candles that a bot decides on.

        :param frame: the strategy's, one row a candle
        """
        return self.terms.with_signals(self.source.candles(pair, frame), frame)

    def candles_to_train(
        self, pair: str, frame: DataFrame, dk: FreqaiDataKitchen, drawer: FreqaiDataDrawer
    ) -> PairCandles:
        """The candles that are trained on, with what the strategy says of its trades.

        :param frame: of the training, one row a candle
        :param dk: FreqAI's kitchen
        :param drawer: FreqAI's, with all the candles that it has; what the strategy says is worked out on those
        """
        if isinstance(dk, PeriodKitchen):
            return dk.run.candles
        # A bot trains on other candles than it predicts on, beside its predictions.
        historic = drawer.historic_data
        known = historic.get(pair, {}).get(self._config["timeframe"], frame)
        return self.terms.read(self.source.candles(pair, known), known, historic)
