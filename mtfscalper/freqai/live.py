"""What a bot decides with: by pair, its candles and the exit policy of its last prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pandas as pd
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.persistence import Trade
from pandas import DataFrame
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.freqai.candles import PairCandles
from mtfscalper.freqai.exit_policy import DecidingPeriod, ExitPolicy, TradeTerms
from mtfscalper.freqai.predictions import decide_in_columns, flat_columns, period_rows
from mtfscalper.policy.inference import decider_for
from mtfscalper.settings import RLSettings, Settings
from mtfscalper.training.fit import model_zip


class Standing(NamedTuple):
    """How a policy stands to what is in force.

    :ivar environment: what it decides in: that of its own training, as far as it is known
    :ivar terms: by which trades are shown to it
    :ivar drops_prices: whether it was trained without raw prices (``drop_ohlc_from_features``)
    :ivar changes: what it was not trained with; while there is any it decides about open trades alone
    :ivar can_decide: whether the strategy still makes all of its features
    :ivar falls_back: whether the rules end its trades (``rl_config.fallback``)
    """

    environment: EnvSettings
    terms: TradeTerms
    drops_prices: bool
    changes: tuple[str, ...] = ()
    can_decide: bool = True
    falls_back: bool = False

    @classmethod
    def in_force(cls, environment: EnvSettings, rl: RLSettings, terms: TradeTerms | None = None) -> Standing:
        """That of a policy that is trained with what is in force; where it must be judged, of one that was not.

        :param terms: that its folder names
        """
        terms = terms or TradeTerms.from_environment(environment, rl.model_type)
        return cls(environment, terms, rl.drop_ohlc_from_features, falls_back=rl.fallback is not None)

    def outdated(self, changes: tuple[str, ...], entry_mode: str, *, drops_prices: bool, can_decide: bool) -> Standing:
        """That of the same policy, where something has changed since its training.

        :param entry_mode: of its training, as ``drops_prices``
        """
        terms = self.terms
        environment = replace(self.environment, rules=terms.rules, lookback=terms.lookback, entry_mode=entry_mode)
        return Standing(environment, terms, drops_prices, changes, can_decide, self.falls_back)


class LivePairs:
    """The state of a bot, by pair. A training, which runs beside it, reads and changes none of it.

    :ivar policies: what decides about a pair's trades now; none before its first prediction
    :ivar standings: of the policies that have decided
    """

    def __init__(self, settings: Settings) -> None:
        self._rl = settings.rl
        self._continual_learning = settings.continual_learning
        self._candles: dict[str, PairCandles] = {}
        self.policies: dict[str, ExitPolicy] = {}
        self.standings: WeakKeyDictionary[BaseAlgorithm, Standing] = WeakKeyDictionary()

    def has_seen(self, pair: str) -> bool:
        """Whether the bot has passed over a pair before."""
        return pair in self._candles

    def see(self, candles: PairCandles) -> None:
        """Take in the candles that a pair has now."""
        self._candles[candles.pair] = candles

    def policy_of(self, pair: str, row: pd.Timestamp) -> str:
        """The folder of the policy that decided on a pair's last row; empty where none did.

        :param row: its date
        """
        policy = self.policies.get(pair)
        return policy.name if policy is not None and policy.decides(int(row.timestamp() * 1000)) else ""

    def falls_back(self, pair: str) -> bool | None:
        """Whether the rules end a pair's trades; None where nothing is judged, or no policy has decided."""
        policy = self.policies.get(pair)
        return None if policy is None or self._rl.fallback is None else policy.falls_back

    def standing(self, model: BaseAlgorithm, environment: EnvSettings) -> Standing:
        """How a policy stands to what is in force; of one that has not decided yet nothing else is known.

        :param environment: in force now
        """
        return self.standings.get(model) or Standing.in_force(environment, self._rl)

    def initial_model(self, model: BaseAlgorithm | None) -> bytes | None:
        """The zip of the model that continual learning goes on from: predictions go on with the model itself meanwhile.

        :param model: the pair's, None before its first training
        :return: None where a training starts anew, as with other settings: they may make another network
        """
        if model is None or not self._continual_learning:
            return None
        standing = self.standings.get(model)
        return model_zip(model) if standing is None or not standing.changes else None

    def predict(
        self,
        model: BaseAlgorithm,
        dk: FreqaiDataKitchen,
        rows: DataFrame,
        features: npt.NDArray[np.float32],
        usable: npt.NDArray[np.bool_],
        environment: EnvSettings,
    ) -> DataFrame:
        """Flat decisions for rows of the candles seen last, and what decides about trades until the next candle.

        In replay mode the last row holds the decision about the pair's open trade, if there is one.

        :param features: scaled, shape (n_rows, n_features)
        :param usable: rows whose features were all there, shape (n_rows,)
        :param environment: in force now
        """
        standing = self.standing(model, environment)
        environment = standing.environment if standing.changes else environment
        candles = self._candles[dk.pair]
        tape = candles.tape(rows, features, usable)
        decider = decider_for(model, tape.features, environment.lookback)
        seen = period_rows(tape, environment, len(tape))
        columns = flat_columns(dk.label_list, decider, tape, environment, seen.decidable, standing.falls_back)
        first_ms, now_ms = int(tape.dates_ms[0]), int(tape.dates_ms[-1]) + candles.timeframe_ms
        period = DecidingPeriod(first_ms, now_ms, seen, decider.trade_decider())
        policy = self.policies[dk.pair] = ExitPolicy(
            standing.terms, candles.history(), period, Path(dk.data_path).name, falls_back=standing.falls_back
        )
        if self._rl.decision_mode == "replay":
            decide_in_columns(columns, policy, Trade.get_trades_proxy(pair=dk.pair, is_open=True), now_ms)
        return columns
