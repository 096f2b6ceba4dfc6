"""Whose trades are learned: a strategy as freqtrade trades it, checked once before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from freqtrade.freqai.data_drawer import FreqaiDataDrawer
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.misc import pair_to_filename
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.backtest_run import BacktestRun, PeriodKitchen
from mtfscalper.freqai.candles import CandleSource, PairCandles
from mtfscalper.freqai.environments_note import EnvironmentsNote
from mtfscalper.freqai.fingerprint import run_fingerprint
from mtfscalper.freqai.own_reward import check_reward_of_strategy
from mtfscalper.freqai.preparation import training_data
from mtfscalper.freqai.result_cache import tell_of_reused_results
from mtfscalper.freqai.returned_rows import check_rows_returned
from mtfscalper.freqai.run_watching import period_name
from mtfscalper.freqai.strategy_frame import StrategyFrame, bots_stop_too, check_strategy
from mtfscalper.freqai.strategy_parameters import check_parameters_are_read
from mtfscalper.freqai.strategy_rules import PairTerms, UserParts
from mtfscalper.freqai.trained_with import trained_with
from mtfscalper.freqai.unsimulated import name_unsimulated
from mtfscalper.seals import Seals
from mtfscalper.settings import Settings
from mtfscalper.training.fit import network_arguments
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.vec_env_choice import environments_decided

NO_STRATEGY_SEEN = (
    "No strategy is known yet whose trades would be learned; accepted: train, fit and predict after start, "
    "start_backtesting, start_live or extract_data_and_train_model; remedy: call one of these"
)


class TradedStrategy:
    """A strategy, the candles it trades on, and how its trades are learned.

    :ivar settings: what is in force; the config's until the strategy has computed a first frame
    :ivar source: makes pairs' candles
    :ivar terms: how the trades of each pair are learned
    """

    def __init__(self, strategy: IStrategy, config: dict[str, Any], asked: Settings, user: UserParts) -> None:
        """
        :param strategy: with the data provider that it trades with, where it has one
        :param config: the freqtrade config
        :param asked: what the config says
        :param user: the user's own code that the config names
        :raises OperationalException: if its trades cannot be learned; in a bot a StrategyRefusedError
        """
        check_strategy(strategy, config, asked)
        with bots_stop_too(config):
            check_reward_of_strategy(user.reward, bool(strategy.can_short))
            check_parameters_are_read(strategy, config)
        tell_of_reused_results(strategy, config)
        name_unsimulated(strategy, config, asked)
        self.strategy, self.settings = strategy, asked
        self._config, self._asked, self._user = config, asked, user
        self._environments = EnvironmentsNote.from_config(config)
        self.source = CandleSource(config, getattr(strategy, "dp", None))
        self.terms = PairTerms(strategy, config, self.source.exchange, asked, user.terms)

    def compute(
        self, dk: FreqaiDataKitchen, frame: DataFrame, pair: str, strategy: IStrategy | None = None
    ) -> StrategyFrame:
        """Let the strategy compute its features, which decide how it is learned, before anything is trained.

        :param dk: FreqAI's own kitchen, of the pair
        :param frame: the strategy's, one row a candle
        :param strategy: a copy that computes them in its place
        :raises OperationalException: if it cannot be learned as it is; in a bot a StrategyRefusedError
        """
        check_rows_returned(self.strategy, self._config, pair)
        computed = StrategyFrame.of(dk, strategy or self.strategy, frame, pair)
        self._settle(computed)
        return computed

    def _settle(self, computed: StrategyFrame) -> None:
        with bots_stop_too(self._config):
            self.settings = self.terms.settings = computed.settled(self._asked, self.settings)
        self.source.signals_needed = self.settings.rl.entry_mode != "agent"

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
            settings=self.settings,
            trained_with=self.trained_with(pair),
            fingerprint=run_fingerprint(code, self.settings, self._user, environment.rules, freqai, model),
            seals=seals,
            archive=archive,
        )

    def candles_to_decide(self, pair: str, frame: DataFrame) -> PairCandles:
        """The candles that a bot decides on.

        :param frame: the strategy's, one row a candle
        """
        return self.terms.with_signals(self.source.candles(pair, frame), frame)

    def trained_with(self, pair: str) -> dict[str, Any]:
        """What a policy of a pair is trained with now, see :mod:`mtfscalper.freqai.trained_with`."""
        rules = self.terms.rules_at_all_candles(pair)
        return trained_with(self.settings, self._user, rules, self._config["freqai"]["feature_parameters"])

    def training_data(
        self, pair: str, frame: DataFrame, dk: FreqaiDataKitchen, drawer: FreqaiDataDrawer, pipeline: Any
    ) -> dict[str, Any]:
        """What a pair's policy is trained on, see :func:`mtfscalper.freqai.preparation.training_data`.

        :param frame: of the training, one row a candle
        :param dk: FreqAI's kitchen
        :param drawer: FreqAI's, with all the candles that it has; what the strategy says is worked out on those
        :param pipeline: to be fitted
        """
        candles = self._candles_to_train(pair, frame, dk, drawer)
        return training_data(frame, dk, pipeline, candles, self.settings, keep_raw=self._user.reward is not None)

    def _candles_to_train(
        self, pair: str, frame: DataFrame, dk: FreqaiDataKitchen, drawer: FreqaiDataDrawer
    ) -> PairCandles:
        """The candles that are trained on, with what the strategy says of its trades."""
        if isinstance(dk, PeriodKitchen):
            return dk.run.candles
        if self.settings is self._asked:
            # FreqAI's hooks may be called by themselves, with a frame that the strategy has computed.
            self._settle(StrategyFrame.from_rows(type(self.strategy).__name__, pair, frame, frame))
        # A bot trains on other candles than it predicts on, beside its predictions.
        historic = drawer.historic_data
        known = historic.get(pair, {}).get(self._config["timeframe"], frame)
        return self.terms.read(self.source.candles(pair, known), known, historic)

    def job(
        self, data: dict[str, Any], dk: FreqaiDataKitchen, *, tensorboard: bool, initial_model: bytes | None = None
    ) -> TrainingJob:
        """The training of a pair's policy.

        :param data: with the tapes, see :func:`mtfscalper.freqai.preparation.training_data`
        :param dk: FreqAI's kitchen, of the pair
        :param tensorboard: whether files for TensorBoard are written
        :param initial_model: zip of a model to go on from
        """
        train, environment, reward = data["train_tape"], self.terms.environment(dk.pair), self._user.reward
        if reward is not None:
            raw, rules = data.get("raw_features"), environment.rules
            paid = reward.of_pair(dk.pair, self._config, rules, self.settings.lookback, raw)
            environment = replace(environment, own_reward=paid)

        def choose() -> Settings:
            network = network_arguments(self.settings, train.n_features, self._user.network)
            return environments_decided(self.settings, train, environment, network)

        return TrainingJob(
            self._environments.decided(self.settings, initial_model, choose),
            train,
            data["evaluation_tape"],
            environment,
            initial_model=initial_model,
            # Not by coin alone, as FreqAI: BTC/USDT and BTC/USDC are two.
            tensorboard_dir=Path(dk.full_path) / "tensorboard" / pair_to_filename(dk.pair) if tensorboard else None,
            network=self._user.network,
            period=period_name(dk),
            judging=data.get("judging_tape"),
        )
