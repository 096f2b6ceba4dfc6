"""FreqAI's hooks, tied to training and decisions. The only module that knows both."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pandas as pd
from freqtrade.enums import CandleType, TradingMode
from freqtrade.exceptions import OperationalException
from freqtrade.exchange import Exchange
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.freqai.RL.BaseReinforcementLearningModel import BaseReinforcementLearningModel
from freqtrade.persistence import Trade
from freqtrade.strategy import IStrategy
from pandas import DataFrame
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper import artefacts
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.freqai.backtest_run import BacktestWindow, WindowKitchen, entry_parameters, feature_sources, rows_hash
from mtfscalper.freqai.columns import ACTION_COLUMN, EXIT_COLUMN
from mtfscalper.freqai.exit_policy import LiveDecisions, TradeDecisions, decide_on_trade, funding_received, true_trade
from mtfscalper.freqai.open_trade import PriceHistory
from mtfscalper.freqai.policy_store import DecidingWindow, RunPlan, TradeTerms, WindowRows
from mtfscalper.freqai.predictions import prediction_columns
from mtfscalper.freqai.strategy_rules import exchange_price_scale, rules_of_strategy, settings_of_config
from mtfscalper.machine import set_torch_threads
from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL
from mtfscalper.market.tape import PRICE_COLUMNS, MarketTape, price_scale
from mtfscalper.policy.closed_loop import decidable_rows, flat_decisions, replay
from mtfscalper.policy.inference import Decider, decider_for
from mtfscalper.policy.user_network import UserNetwork
from mtfscalper.trading.actions import N_ACTIONS, Action, entry_permissions
from mtfscalper.trading.rules import FLAT, Account, RulesError, TradingRules
from mtfscalper.training.fit import model_zip
from mtfscalper.training.job import TrainingJob, stop_on
from mtfscalper.user_code import UserCodeError, make_importable

logger = logging.getLogger(__name__)

_RAW_PRICE_FEATURES = ("%-raw_open", "%-raw_high", "%-raw_low", "%-raw_close")


class _Preparation(NamedTuple):
    """What stands between a strategy's frame and a policy's features: made in its training, and changed with it."""

    pipeline: Any
    features: list[str]


class MtfScalperFreqaiModel(BaseReinforcementLearningModel):
    """PPO on parallel trading environments for FreqAI; see the README for its settings."""

    def __init__(self, **kwargs: Any) -> None:
        config = kwargs["config"]
        self.settings = settings_of_config(config)
        rl = self.settings.rl
        make_importable(Path(config["user_data_dir"]))
        try:
            network = None if rl.network is None else UserNetwork.from_name(rl.network)
        except UserCodeError as error:
            raise OperationalException(f"The config cannot be used:\n{error}") from error
        self._network_code = "" if network is None else network.source_sha256
        super().__init__(**kwargs)
        unread = self.settings.ignored_ppo_keys(config)
        if unread:
            logger.warning(
                "freqai.rl_config has PPO's keys %s, which model_type '%s' does not read; its arguments stand in "
                "freqai.model_training_parameters.",
                ", ".join(unread),
                rl.model_type,
            )
        self.torch_threads = set_torch_threads(rl.cpu_count, rl.interop_threads)
        logger.info("torch runs %d intra-op and %d inter-op threads.", *self.torch_threads)
        self._strategy: IStrategy | None = None
        self._training_failure: Exception | None = None
        self._rules_by_pair: dict[str, TradingRules] = {}
        self._funding_by_pair: dict[str, pd.Series[float]] = {}
        # The pair's candles. Backtests: the account that replayed windows hand on, and what windows depend on.
        self._candles = DataFrame()
        self._signals = DataFrame()
        self._account: Account = FLAT
        self._account_before: Account = FLAT
        self._windows: dict[str, BacktestWindow] = {}
        # Policy, pipeline and feature names change as one: FreqAI replaces them one after the other, while it predicts.
        self._preparations: WeakKeyDictionary[BaseAlgorithm, _Preparation] = WeakKeyDictionary()
        self._live_decisions: dict[str, LiveDecisions] = {}
        self._code = artefacts.code_hash()

    # ------------------------------------------------------------------ FreqAI's entry points

    def start(self, dataframe: DataFrame, metadata: dict[str, Any], strategy: IStrategy) -> DataFrame:
        """FreqAI's entry point, kept to note whose trades are learned, and on which candles."""
        if strategy is not self._strategy:
            self._check_who_decides(strategy)
        self._strategy = strategy
        self._candles = dataframe[["date", *PRICE_COLUMNS]].reset_index(drop=True)
        return super().start(dataframe, metadata, strategy)

    def start_backtesting(
        self, dataframe: DataFrame, metadata: dict[str, Any], dk: FreqaiDataKitchen, strategy: IStrategy
    ) -> FreqaiDataKitchen:
        """FreqAI's loop over windows, with a kitchen that checks what it reuses."""
        pair = metadata["pair"]
        candles = dataframe[["date", *PRICE_COLUMNS]].reset_index(drop=True)
        prices = {name: candles[name].to_numpy(dtype=np.float64) for name in PRICE_COLUMNS}
        self._candles = candles.assign(
            price_scale=price_scale(
                prices, pd.DatetimeIndex(candles["date"]), exchange_price_scale(self._exchange(), pair)
            ),
            funding=self._funding(pair, candles["date"]),
        )
        signals = [name for name in (LONG_SIGNAL, SHORT_SIGNAL) if name in dataframe.columns]
        self._signals = dataframe[["date", *signals]].reset_index(drop=True)
        self._account = FLAT
        self._windows = {}
        kitchen = WindowKitchen(pair, self)
        self.dk = kitchen
        done = super().start_backtesting(dataframe, metadata, kitchen, strategy)
        if self._exact:
            plan = RunPlan(pair, self._terms(pair), tuple(window.planned for window in self._windows.values()))
            plan.write(Path(kitchen.full_path), self._history(pair))
        return done

    def train(self, unfiltered_df: DataFrame, pair: str, dk: FreqaiDataKitchen, **kwargs: Any) -> Any:
        """Train a policy for one pair and window.

        :param unfiltered_df: the strategy's frame of the training window, one row a candle
        :return: the best policy by evaluation
        """
        try:
            return self._train(unfiltered_df, pair, dk)
        except Exception as error:
            # FreqAI logs and goes on with neutral predictions; see _append_null_backtesting_predictions.
            self._training_failure = error
            raise

    def fit(self, data_dictionary: dict[str, Any], dk: FreqaiDataKitchen, **kwargs: Any) -> BaseAlgorithm:
        """Train on tapes made by :meth:`train`.

        :param data_dictionary: holds ``train_tape`` and ``evaluation_tape``
        """
        train_tape: MarketTape = data_dictionary["train_tape"]
        # Of a copy: predictions go on with the model itself meanwhile.
        previous = self.dd.model_dictionary.get(dk.pair) if self.settings.continual_learning else None
        job = TrainingJob(
            self.settings,
            train_tape,
            data_dictionary["evaluation_tape"],
            self._env_settings(dk.pair),
            initial_model=None if previous is None else model_zip(previous),
            tensorboard_dir=self._tensorboard_dir(dk),
        )
        model, report = job.run(stop_on(self._stop_event) if self.live else None)
        best = report.best_evaluation
        logger.info(
            "%s: trained %d timesteps on %d candles in %.0f s (%s x %d; rollouts %.0f s, updates %.0f s); best of %d "
            "evaluations: %s.",
            dk.pair,
            report.timesteps,
            report.train_candles,
            report.seconds,
            report.vec_env,
            report.n_envs,
            report.seconds_of("rollout"),
            report.seconds_of("update"),
            len(report.evaluations),
            f"{best['log_return']:+.4f} log return after costs, {best['trades']:.0f} trades" if best else "none",
        )
        artefacts.write_json(Path(dk.data_path) / artefacts.REPORT_NAME, report.as_json())
        artefacts.write_json(Path(dk.data_path) / artefacts.TERMS_NAME, self._terms(dk.pair).as_json())
        return model

    def predict(
        self, unfiltered_df: DataFrame, dk: FreqaiDataKitchen, **kwargs: Any
    ) -> tuple[DataFrame, npt.NDArray[np.int_]]:
        """Decide on every row of a frame.

        :param unfiltered_df: one row a candle; a backtest window, or the candles a live bot has
        :return: one row a candle with the labels the strategy declares, and whether each row can be trusted
        """
        dk.find_features(unfiltered_df)
        before = dk.rows_before if isinstance(dk, WindowKitchen) else DataFrame()
        rows = pd.concat([before, unfiltered_df]) if len(before) else unfiltered_df
        prepared = self._preparations.get(self.model) or _Preparation(dk.feature_pipeline, dk.training_features_list)
        filtered, _ = dk.filter_features(rows, prepared.features, training_filter=False)
        usable = np.asarray(dk.do_predict, dtype=bool)
        scaled, _, _ = prepared.pipeline.transform(self._trained_features(filtered), outlier_check=True)
        features = np.asarray(scaled, dtype=np.float32)
        model: BaseAlgorithm = self.model
        if isinstance(dk, WindowKitchen):
            columns = self._predict_window(rows, features, usable, len(before), model, dk)
        else:
            columns = self._predict_live(rows, features, usable, model, dk)
        dk.do_predict = usable[len(before) :].astype(np.int_)
        return columns, dk.do_predict

    def model_exists(self, dk: FreqaiDataKitchen) -> bool:
        """Whether a window's model can be reused: on disk, whole, and made from what there is now."""
        if not super().model_exists(dk):
            return False
        if not isinstance(dk, WindowKitchen):
            return True
        stale = artefacts.why_stale(
            dk.data_path,
            self._windows[dk.model_filename].fingerprint,
            ("model", "metadata", "feature_pipeline", "label_pipeline"),
        )
        if stale is not None:
            logger.info("%s: %s is trained anew: %s.", dk.pair, dk.model_filename, stale)
            return False
        # FreqAI would hand out the pipeline of the pair's last window instead of this one's.
        self.dd.meta_data_dictionary.pop(dk.pair, None)
        return True

    def _append_null_backtesting_predictions(self, dk: FreqaiDataKitchen, dataframe_backtest: DataFrame) -> None:
        """A failed training fails the run: FreqAI would cache neutral predictions and trade on them."""
        error = self._training_failure
        raise OperationalException(
            f"Training of {dk.pair}, window {dk.model_filename}, failed: {type(error).__name__}: {error}"
        ) from error

    def _on_stop(self) -> None:
        # Training ends by itself at its next step (the stop event) and closes its own environments; closing them
        # here, under a step, would hang. What is left is the interface's own duty.
        self.dd.save_historic_predictions_to_disk()  # type: ignore[no-untyped-call]

    # ------------------------------------------------------------------ training

    def _train(self, unfiltered_df: DataFrame, pair: str, dk: FreqaiDataKitchen) -> BaseAlgorithm:
        logger.info("-------------------- Starting training %s --------------------", pair)
        filtered, labels = dk.filter_features(
            unfiltered_df, dk.training_features_list, dk.label_list, training_filter=True
        )
        data = dk.make_train_test_datasets(self._trained_features(filtered), labels)
        dk.fit_labels()
        # Which candles these are, before the pipeline renumbers anything.
        train_rows, test_rows = data["train_features"].index, data["test_features"].index
        dk.feature_pipeline = self.define_data_pipeline(threads=dk.thread_count)
        data["train_features"], data["train_labels"], data["train_weights"] = dk.feature_pipeline.fit_transform(
            data["train_features"], data["train_labels"], data["train_weights"]
        )
        train_tape = self._tape(unfiltered_df.loc[train_rows], data["train_features"], pair)
        evaluation_tape: MarketTape | None = None
        if len(test_rows):
            data["test_features"], data["test_labels"], data["test_weights"] = dk.feature_pipeline.transform(
                data["test_features"], data["test_labels"], data["test_weights"]
            )
            evaluation_tape = self._tape(unfiltered_df.loc[test_rows], data["test_features"], pair)
        logger.info(
            "Training on %d features and %d candles, evaluating on %d.",
            train_tape.n_features,
            len(train_rows),
            len(test_rows),
        )
        model = self.fit({**data, "train_tape": train_tape, "evaluation_tape": evaluation_tape}, dk)
        self._preparations[model] = _Preparation(dk.feature_pipeline, list(dk.training_features_list))
        logger.info("-------------------- Done training %s --------------------", pair)
        return model

    def _trained_features(self, features: DataFrame) -> DataFrame:
        """The features the pipeline gets: raw prices left out where the config says so."""
        if not self.settings.rl.drop_ohlc_from_features:
            return features
        return features.drop(columns=[name for name in _RAW_PRICE_FEATURES if name in features.columns])

    def _tape(
        self, frame: DataFrame, features: Any, pair: str, usable: npt.NDArray[np.bool_] | None = None
    ) -> MarketTape:
        return MarketTape.from_frame(
            frame.assign(funding=self._funding(pair, frame["date"])),
            np.asarray(features, dtype=np.float32),
            pair=pair,
            timeframe_ms=self.base_tf_seconds * 1000,
            signals_needed=self.settings.rl.entry_mode != "agent",
            usable=usable,
        )

    def _tensorboard_dir(self, dk: FreqaiDataKitchen) -> Path | None:
        return Path(dk.full_path) / "tensorboard" / dk.pair.split("/")[0] if self.settings.tensorboard else None

    def _env_settings(self, pair: str) -> EnvSettings:
        rl = self.settings.rl
        return EnvSettings(
            rules=self._rules(pair),
            reward=rl.model_reward_parameters,
            entry_mode=rl.entry_mode,
            window=self.settings.window,
            random_start=rl.randomize_starting_position,
            state_info=rl.add_state_info,
        )

    def _rules(self, pair: str) -> TradingRules:
        if pair not in self._rules_by_pair:
            assert self._strategy is not None
            exchange = self._exchange()
            try:
                rules = rules_of_strategy(self._strategy, self.config, exchange, pair, self.settings.rl)
            except RulesError as error:
                raise OperationalException(f"The trades of {pair} cannot be learned: {error}") from error
            logger.info("%s is trained with %s.", pair, rules)
            self._rules_by_pair[pair] = rules
        return self._rules_by_pair[pair]

    def _exchange(self) -> Exchange:
        assert self.data_provider is not None
        assert self.data_provider._exchange is not None
        return self.data_provider._exchange

    def _funding(self, pair: str, dates: pd.Series[pd.Timestamp]) -> npt.NDArray[np.float64]:
        """Funding due on one unit of the asset at each candle's open, from the rates on disk.

        The backtester reads the same files; a bot downloads them when it starts.
        """
        if self.config.get("trading_mode") != TradingMode.FUTURES:
            return np.zeros(len(dates))
        if pair not in self._funding_by_pair:
            assert self.data_provider is not None
            exchange = self._exchange()
            rates, marks = (
                self.data_provider.historic_ohlcv(pair, exchange.get_option(timeframe), candle_type)
                for timeframe, candle_type in (
                    ("funding_fee_timeframe", CandleType.FUNDING_RATE.value),
                    ("mark_ohlcv_timeframe", exchange.get_option("mark_ohlcv_price")),
                )
            )
            due = exchange.combine_funding_and_mark(rates, marks, self.config.get("futures_funding_rate"))
            if due.empty:
                logger.warning("%s: no funding rates on disk; training and predictions leave funding out.", pair)
            self._funding_by_pair[pair] = (due["open_fund"] * due["open_mark"]).set_axis(due["date"])
        return np.asarray(self._funding_by_pair[pair].reindex(dates).fillna(0.0), dtype=np.float64)

    # ------------------------------------------------------------------ predictions

    def _predict_window(
        self,
        rows: DataFrame,
        features: npt.NDArray[np.float32],
        usable: npt.NDArray[np.bool_],
        n_before: int,
        model: BaseAlgorithm,
        dk: WindowKitchen,
    ) -> DataFrame:
        """A backtest window: flat decisions, and beside them on disk what decides about open trades.

        In replay mode the policy runs through the rules instead, from where the last window left its account.
        """
        first, last = rows["date"].iloc[0], rows["date"].iloc[-1]
        dates = self._candles["date"]
        # The decision on the last row is carried out at the open of the candle after it.
        candles = self._candles.loc[(dates >= first) & (dates <= last + self._timeframe)].reset_index(drop=True)
        n_after = len(candles) - len(rows)
        # The candles' own prices, whatever the strategy did to its frame; its columns beside them.
        frame = rows.drop(columns=[name for name in candles.columns if name != "date" and name in rows.columns])
        frame = candles.merge(frame, on="date", how="left", validate="one_to_one")
        tape = self._tape(
            frame,
            np.pad(features, ((0, n_after), (0, 0))),
            dk.pair,
            np.pad(usable, (0, n_after)),
        )
        settings = self._env_settings(dk.pair)
        decider = decider_for(model, tape.features, settings.window)
        self._account_before = self._account
        if not self._exact:
            result = replay(decider, tape, settings, n_before, len(rows), account=self._account)
            self._account = result.account
            return prediction_columns(dk.label_list, result.actions, result.flat, result.exit_probability)
        seen = _window_rows(tape, settings, len(rows))
        seen.save(self._windows[dk.model_filename].decisions_path(dk))
        columns = _flat_columns(dk.label_list, decider, tape, settings, seen.decidable)
        return columns.iloc[n_before:].reset_index(drop=True)

    def _predict_live(
        self,
        rows: DataFrame,
        features: npt.NDArray[np.float32],
        usable: npt.NDArray[np.bool_],
        model: BaseAlgorithm,
        dk: FreqaiDataKitchen,
    ) -> DataFrame:
        """A bot's candles: flat decisions, and in replay mode on the last row one on the true trade if there is one."""
        settings = self._env_settings(dk.pair)
        tape = self._tape(rows.reset_index(drop=True), features, dk.pair, usable)
        decider = decider_for(model, tape.features, settings.window)
        seen = _window_rows(tape, settings, len(tape))
        columns = _flat_columns(dk.label_list, decider, tape, settings, seen.decidable)
        self._live_decisions[dk.pair] = LiveDecisions(
            self._trained_terms(dk),
            self._history(dk.pair),
            DecidingWindow(seen, decider.trade_query()),
            float(tape.close[-1]),
        )
        if not self._exact:
            self._decide_in_columns(dk.pair, columns, int(tape.dates_ms[-1]))
        return columns

    def _decide_in_columns(self, pair: str, columns: DataFrame, last_ms: int) -> None:
        """Replay mode: a strategy that reads columns alone finds the decision on its trade in the last row."""
        now_ms = last_ms + self.base_tf_seconds * 1000
        live = self._live_decisions[pair]
        last = columns.index[-1]
        for trade in Trade.get_trades_proxy(pair=pair, is_open=True):
            columns.loc[last, ACTION_COLUMN] = Action.NEUTRAL
            decision = None
            if trade.open_date_utc.timestamp() * 1000 < now_ms:
                known = true_trade(trade, live.terms)
                funding = funding_received(trade)
                decision = decide_on_trade(known, now_ms, live.last_close, *live[:3], funding=funding)
            if decision is None:
                continue
            if decision.leave or decision.held_candles >= live.terms.rules.max_trade_duration_candles:
                columns.loc[last, ACTION_COLUMN] = Action.SHORT_EXIT if trade.is_short else Action.LONG_EXIT
            if EXIT_COLUMN in columns:
                columns.loc[last, EXIT_COLUMN] = decision.probability

    def live_decisions(self, pair: str) -> LiveDecisions | None:
        """See :class:`mtfscalper.freqai.exit_policy.LiveSource`."""
        return self._live_decisions.get(pair)

    def _history(self, pair: str) -> PriceHistory:
        """The pair's candles, as a trade lives through them."""
        candles = self._candles
        funding = candles["funding"] if "funding" in candles else self._funding(pair, candles["date"])
        return PriceHistory.of(
            self.base_tf_seconds * 1000,
            pd.DatetimeIndex(candles["date"]).as_unit("ms").astype("int64").to_numpy(),
            candles["open"].to_numpy(dtype=np.float64),
            np.asarray(funding, dtype=np.float64),
        )

    def _terms(self, pair: str) -> TradeTerms:
        env = self._env_settings(pair)
        return TradeTerms(env.rules, env.view, env.window, self.settings.rl.model_type)

    def _trained_terms(self, dk: FreqaiDataKitchen) -> TradeTerms:
        """The terms that a bot's policy was trained for: those of now, where its folder does not say."""
        path = Path(dk.data_path) / artefacts.TERMS_NAME
        return TradeTerms.of_json(json.loads(path.read_text())) if path.is_file() else self._terms(dk.pair)

    @property
    def _exact(self) -> bool:
        return self.settings.rl.decision_mode == "exact"

    def _check_who_decides(self, strategy: IStrategy) -> None:
        if self._exact and not any(isinstance(value, TradeDecisions) for value in vars(strategy).values()):
            raise OperationalException(
                f"freqai.rl_config.decision_mode is 'exact', and {type(strategy).__name__} does not ask for decisions "
                "about its open trades; accepted: a strategy that holds mtfscalper.strategy.TradeDecisions and "
                "asks it in custom_exit, as MtfScalper_RL_Hybrid does; remedy: set decision_mode to 'replay', which "
                "writes exits into the columns"
            )

    @property
    def _timeframe(self) -> pd.Timedelta:
        return pd.Timedelta(seconds=self.base_tf_seconds)

    # ------------------------------------------------------------------ what is on disk

    def note_window(self, dk: WindowKitchen) -> None:
        """See :class:`mtfscalper.freqai.backtest_run.WindowOwner`."""
        model_id = int(dk.model_filename.rsplit("_", 1)[1])
        periods = zip(dk.training_timeranges, dk.backtesting_timeranges, strict=True)
        train, test = next((train, test) for train, test in periods if int(train.stopts) == model_id)
        stop = test.stopdt + self._timeframe
        freqai = self.freqai_info
        # Whatever changes nothing about the policy: how progress is shown, and how its decisions are asked for.
        shown: Any = {"rl": {"progress_bar", "decision_mode"}, "tensorboard": True, "ppo": {"verbose"}}
        self._windows[dk.model_filename] = BacktestWindow(
            first_ms=int(test.startts) * 1000,
            stop_ms=int(test.stopts) * 1000,
            folder=os.path.relpath(dk.data_path, dk.full_path),
            decision_mode=self.settings.rl.decision_mode,
            fingerprint={
                "versions": artefacts.value_hash(artefacts.library_versions()),
                "code": self._code,
                "network": self._network_code,
                "settings": artefacts.value_hash(self.settings.model_dump(exclude=shown)),
                "rules": artefacts.value_hash(asdict(self._rules(dk.pair))),
                "features": artefacts.value_hash(
                    [
                        freqai["feature_parameters"],
                        freqai["data_split_parameters"],
                        feature_sources(type(self._strategy)),
                    ]
                ),
                "candles": rows_hash([self._candles, *self._other_candles(dk.pair)], train.startdt, stop),
                "signals": rows_hash([self._signals], train.startdt, stop),
                "strategy parameters": artefacts.value_hash(entry_parameters(self._strategy)),
                "periods": artefacts.value_hash([train.timerange_str, test.timerange_str]),
            },
        )

    def why_predictions_are_stale(self, dk: WindowKitchen) -> str | None:
        """See :class:`mtfscalper.freqai.backtest_run.WindowOwner`."""
        window = self._windows[dk.model_filename]
        return window.why_predictions_are_stale(dk, self._account, keeps_models=self.settings.save_backtest_models)

    def predictions_reused(self, dk: WindowKitchen) -> None:
        """Take up the account that a cached window ended with."""
        self._account = self._windows[dk.model_filename].account_after(dk)

    def seal_window(self, dk: WindowKitchen) -> None:
        """See :class:`mtfscalper.freqai.backtest_run.WindowOwner`."""
        self._windows[dk.model_filename].seal(dk, self._account_before, self._account)

    def _other_candles(self, pair: str) -> list[DataFrame]:
        """The candles of other timeframes and pairs that FreqAI makes features of."""
        assert self.data_provider is not None
        parameters = self.freqai_info["feature_parameters"]
        return [
            self.data_provider.historic_ohlcv(other, timeframe)
            for other in (pair, *parameters.get("include_corr_pairlist", []))
            for timeframe in parameters["include_timeframes"]
            if (other, timeframe) != (pair, self.config["timeframe"])
        ]


def _window_rows(tape: MarketTape, settings: EnvSettings, n_rows: int) -> WindowRows:
    """The first rows of a tape, as a policy sees them."""
    long_permitted, short_permitted = entry_permissions(
        settings.entry_mode, settings.rules.can_short, tape.long_signal, tape.short_signal
    )
    return WindowRows(
        dates_ms=tape.dates_ms[:n_rows],
        decidable=decidable_rows(tape, settings.window)[:n_rows],
        long_permitted=long_permitted[:n_rows],
        short_permitted=short_permitted[:n_rows],
        features=tape.features[:n_rows],
    )


def _flat_columns(
    labels: Sequence[str],
    decider: Decider,
    tape: MarketTape,
    settings: EnvSettings,
    decidable: npt.NDArray[np.bool_],
) -> DataFrame:
    """What would be done flat at every row, one row a candle; nothing where the policy cannot decide.

    :param decidable: shape (n,), of the tape's first n rows
    """
    decided = np.flatnonzero(decidable)
    flat = flat_decisions(decider, tape, settings, decided)
    actions = np.zeros(len(decidable), dtype=np.int64)
    probabilities = np.zeros((len(decidable), N_ACTIONS), dtype=np.float32)
    actions[decided], probabilities[decided] = flat
    no_trade = np.zeros(len(decidable), dtype=np.float32)
    return prediction_columns(labels, actions, flat._replace(probabilities=probabilities), no_trade)
