"""What a bot decides with: by pair, its candles and the exit policy of its last prediction."""

from __future__ import annotations

from pathlib import Path
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
from mtfscalper.freqai.exit_policy import DecidingPeriod, ExitPolicy
from mtfscalper.freqai.predictions import decide_in_columns, flat_columns, period_rows, prediction_columns
from mtfscalper.freqai.recollection import LiveMemories
from mtfscalper.freqai.standing import Standing
from mtfscalper.policy.inference import TradeDecider, decider_for
from mtfscalper.policy.recurrent import is_recurrent
from mtfscalper.settings import Settings
from mtfscalper.training.fit import model_zip


class LivePairs:
    """The state of a bot, by pair. A training, which runs beside it, reads and changes none of it.

    :ivar policies: what decides about a pair's trades now; none before its first prediction
    :ivar standings: of the policies that have decided
    """

    def __init__(self, settings: Settings) -> None:
        self._rl = settings.rl
        self._continual_learning = settings.continual_learning
        self._candles: dict[str, PairCandles] = {}
        self._memories = LiveMemories()
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
        seen = period_rows(tape, environment, len(tape))
        asked: TradeDecider
        if is_recurrent(model):
            flat, asked = self._memories.at_last_row(model, tape, environment, candles.history(), _trained_ms(dk))
            no_trade = np.zeros(len(tape), dtype=np.float32)
            columns = prediction_columns(dk.label_list, flat.actions, flat, no_trade, standing.falls_back)
        else:
            decider = decider_for(model, tape.features, environment.lookback)
            columns = flat_columns(dk.label_list, decider, tape, environment, seen.decidable, standing.falls_back)
            asked = decider.trade_decider()
        first_ms, now_ms = int(tape.dates_ms[0]), int(tape.dates_ms[-1]) + candles.timeframe_ms
        period = DecidingPeriod(first_ms, now_ms, seen, asked)
        policy = self.policies[dk.pair] = ExitPolicy(
            standing.terms,
            candles.history(),
            period,
            Path(dk.data_path).name,
            falls_back=standing.falls_back,
            told_rules=standing.changed_rules,
        )
        if self._rl.decision_mode == "replay":
            decide_in_columns(columns, policy, Trade.get_trades_proxy(pair=dk.pair, is_open=True), now_ms)
        return columns


def _trained_ms(dk: FreqaiDataKitchen) -> int:
    """The end of what the policy at hand of a kitchen was trained on, milliseconds since 1970: its folder's name."""
    return int(Path(dk.data_path).name.rpartition("_")[2]) * 1000
