"""A bot's pass over a pair: which policy decides on the candle that closed, and what becomes of its decision."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from pandas import DataFrame

from mtfscalper.freqai.bookkeeping import Bookkeeper
from mtfscalper.freqai.expiry import Expiry
from mtfscalper.freqai.fallback import who_ends_trades
from mtfscalper.freqai.live import LivePairs
from mtfscalper.freqai.owner import Owner, fallback_trouble, policy_trouble
from mtfscalper.freqai.prediction_history import DATE, DO_PREDICT, joined, tidied
from mtfscalper.freqai.predictions import EXPIRED, without_entries
from mtfscalper.freqai.standing import Standing
from mtfscalper.freqai.traded_strategy import TradedStrategy
from mtfscalper.freqai.trained_with import listed, summary
from mtfscalper.freqai.training_folder import Origin
from mtfscalper.policy.recurrent import is_recurrent
from mtfscalper.training.paired_result import must_fall_back

logger = logging.getLogger(__name__)

# By which clocks of one machine may differ between two looks at them.
_CLOCK_SECONDS = 60
_UNKNOWN = Origin(None, {})
_STAYS = "an open trade keeps its stop and its longest duration"


class Hooks(Protocol):
    """FreqAI's hooks that a pass calls, which a model of the user's may override."""

    model: Any

    def predict(
        self, unfiltered_df: DataFrame, dk: FreqaiDataKitchen, **kwargs: Any
    ) -> tuple[DataFrame, npt.NDArray[np.int_]]:
        """Decide on every row."""
        ...

    def fit_live_predictions(self, dk: FreqaiDataKitchen, pair: str) -> None:
        """Work out the mean and the deviation of the last predictions."""
        ...

    def set_initial_historic_predictions(
        self, pred_df: DataFrame, dk: FreqaiDataKitchen, pair: str, strat_df: DataFrame
    ) -> None:
        """Begin a pair's history."""
        ...


class _Decided(NamedTuple):
    """Columns of rows, and of each whether it can be traded on: 0, 1 or 2, see ``do_predict``."""

    columns: DataFrame
    usable: npt.NDArray[np.int_]

    @classmethod
    def nothing(cls, labels: list[str]) -> _Decided:
        return cls(DataFrame(0.0, index=[0], columns=labels), np.array([0]))


class LivePasses:
    """The passes of a bot over its pairs."""

    def __init__(self, drawer: Bookkeeper, pairs: LivePairs, owner: Owner, freqai: dict[str, Any]) -> None:
        """
        :param freqai: the section ``freqai`` of the config
        """
        self._drawer, self._pairs, self._owner, self._freqai = drawer, pairs, owner, freqai

    # ------------------------------------------------------------------ the decision

    def decide(self, hooks: Hooks, traded: TradedStrategy, frame: DataFrame, dk: FreqaiDataKitchen) -> None:
        """Decide on the last candle, once, and give the strategy what was decided on all of them.

        :param hooks: with the pair's policy as ``model``
        :param frame: the strategy's with its features and labels, one row a candle
        :param dk: FreqAI's kitchen, which gets the frame with the policy's columns
        """
        pair, history = dk.pair, self._drawer.historic_predictions
        # Of candles that are yet to come nothing stands in the way of what is decided now.
        self._drawer.settle_history()
        standing = self._standing(hooks.model, traded, frame, dk)
        if pair not in history:
            decided = self._ask(hooks, frame, dk)
            if decided is None:
                self._drawer.return_null_values_to_strategy(frame, dk)
                return
            # What a policy says of candles that it may have been trained on, for a look at them: do_predict is 0.
            columns = without_entries(decided.columns) if standing.changes else decided.columns
            hooks.set_initial_historic_predictions(columns, dk, pair, frame)
            history[pair] = tidied(pair, history[pair])
            self._drawer.save_historic_predictions_to_disk()
            dk.return_dataframe = joined(frame, history[pair])
            return
        # As many rows as the policy looks back on, which may be another's number than the config's; one that remembers
        # may have to be run over all there are.
        n_rows = max(standing.terms.lookback, self._freqai["conv_width"])
        rows = frame if is_recurrent(hooks.model) else frame.iloc[-n_rows:]
        decided = self._ask(hooks, rows, dk) or _Decided.nothing(dk.label_list)
        is_expired = self._is_expired(dk)
        if is_expired or standing.changes:
            decided = _Decided(
                without_entries(decided.columns), np.full(len(decided.usable), EXPIRED if is_expired else 0)
            )
        self._note(hooks, decided, frame, dk)
        dk.return_dataframe = joined(frame, history[pair])
        if standing.changes:
            # What was decided on this candle before the settings changed stays on record, and enters nothing now.
            last = dk.return_dataframe.tail(1)
            withheld = without_entries(last).assign(**{DO_PREDICT: decided.usable[-1]})
            dk.return_dataframe = pd.concat([dk.return_dataframe.iloc[:-1], withheld])

    def _standing(self, model: Any, traded: TradedStrategy, frame: DataFrame, dk: FreqaiDataKitchen) -> Standing:
        """How the pair's policy stands to what is in force; found out once, and told if it is another."""
        known = self._pairs.standings.get(model)
        if known is not None:
            return known
        origin = self._drawer.origins.get(model) or _UNKNOWN
        standing = Standing.in_force(traded.terms.environment(dk.pair), traded.settings.rl, origin.terms)
        if standing.falls_back:
            standing = standing._replace(falls_back=self._falls_back(origin, dk.pair))
        if origin.trained_with:
            now = self._drawer.trained_with(dk.pair)
            standing = standing.since(origin, now, dk.training_features_list, frame.columns)
            if standing.changes:
                of_trades = "It decides about open trades as it was trained"
                if standing.falls_back:
                    of_trades = "The rules end its open trades"
                if not standing.can_decide:
                    of_trades = f"It cannot decide any more, without {listed(standing.lacking)}: {_STAYS}"
                self._retrain(
                    dk.pair,
                    f"{dk.pair}: its policy was trained with something else: {summary(standing.changes)}. {of_trades}. "
                    "Nothing is entered, and a new one is trained at once.",
                )
        self._pairs.standings[model] = standing
        return standing

    def _falls_back(self, origin: Origin, pair: str) -> bool:
        """Whether a pair's policy falls back; its owner is told when that changes, the log of each new policy."""
        fallen, message = must_fall_back(origin.judged), who_ends_trades(origin.judged, pair)
        name = fallback_trouble(pair)
        if fallen:
            told = self._owner.trouble(name, f"{message} The next message comes once a policy beats them.", pair)
        else:
            told = self._owner.healed(name, message)
        if not told:
            logger.info("%s", message)
        return fallen

    def _ask(self, hooks: Hooks, rows: DataFrame, dk: FreqaiDataKitchen) -> _Decided | None:
        """Ask the policy about rows; None where it cannot decide, which is told once and ends with a new one."""
        pair, model = dk.pair, hooks.model
        origin = self._drawer.origins.get(model) or _UNKNOWN
        if not self._pairs.standings[model].can_decide:
            self._pairs.policies.pop(pair, None)
            return None
        try:
            decided = _Decided(*hooks.predict(rows, dk, first=False))
        except Exception as error:
            # Of a library, a pipeline or the user's code: whatever it is, it comes again at each candle.
            self._pairs.policies.pop(pair, None)
            told = self._owner.trouble(
                policy_trouble(pair),
                f"{pair}: its policy cannot decide ({type(error).__name__}: {error}). Nothing is entered, and "
                f"{_STAYS}, until a new one is trained.",
                pair,
            )
            if told:
                logger.exception("%s: the policy cannot decide.", pair)
            if origin.from_disk:
                # One of this process was trained as the next one will be: that waits until it is due.
                self._drawer.train_at_once(pair)
            return None
        if not self._pairs.standings[model].changes and not origin.stands_in:
            trained = datetime.fromtimestamp(self._trained_timestamp(pair), UTC)
            self._owner.healed(policy_trouble(pair), f"{pair}: the policy of {trained:%Y-%m-%d %H:%M} UTC decides.")
        return decided

    def _is_expired(self, dk: FreqaiDataKitchen) -> bool:
        """Whether the policy has expired."""
        pair, expiry = dk.pair, Expiry.from_freqai(self._freqai)
        name = f"expired {pair}"
        if not expiry.has_expired(self._trained_timestamp(pair), datetime.now(UTC).timestamp()):
            self._owner.healed(name, f"{pair}: a new policy decides.")
            return False
        self._owner.trouble(
            name,
            f"{pair}: its policy is older than freqai.expiration_hours, {expiry.hours:g}. It goes on deciding about an "
            "open trade, and nothing is entered until a training goes well.",
            pair,
        )
        return True

    def _trained_timestamp(self, pair: str) -> int:
        """When the policy in use was trained, seconds since 1970. FreqAI's dictionary may say 0: due at once."""
        named = self._drawer.policy_in_use(pair)
        return 0 if named is None else named.trained_timestamp

    # ------------------------------------------------------------------ the history

    def _note(self, hooks: Hooks, decided: _Decided, frame: DataFrame, dk: FreqaiDataKitchen) -> None:
        """Take a decision on the last candle into the history, unless that candle has one."""
        pair, histories = dk.pair, self._drawer.historic_predictions
        date = pd.to_datetime(frame["date"].iloc[-1:], utc=True).iloc[0]
        history = histories[pair]
        if len(history) and history[DATE].iloc[-1] >= date:
            # Or the exchange lags behind.
            return
        n_candles = self._freqai.get("fit_live_predictions_candles", 0)
        recent = history.reindex(columns=dk.label_list).tail(n_candles)
        if n_candles and len(recent) and not recent.isna().any(axis=None):
            hooks.fit_live_predictions(dk, pair)
        self._drawer.add_prediction(pair, _row(decided, date, frame.iloc[-1], dk))

    # ------------------------------------------------------------------ trainings

    def mind_clock(self, pair: str) -> None:
        """See that a pair is trained though the clock was set back: FreqAI would wait for the time of its policy."""
        entry = self._drawer.pair_dict.get(pair)
        if entry is not None and entry["trained_timestamp"] > datetime.now(UTC).timestamp() + _CLOCK_SECONDS:
            logger.warning("%s: its policy was trained at a time yet to come: the clock was set back. It is due.", pair)
            self._drawer.train_at_once(pair)

    def _retrain(self, pair: str, message: str) -> None:
        if not self._owner.trouble(policy_trouble(pair), message, pair):
            # The owner knows of another trouble with it already.
            logger.warning("%s", message)
        self._drawer.train_at_once(pair)


def _row(decided: _Decided, date: pd.Timestamp, candle: pd.Series, dk: FreqaiDataKitchen) -> dict[str, Any]:
    """What FreqAI keeps of a decision."""
    row: dict[str, Any] = {}
    for name in decided.columns:
        label, value = str(name), decided.columns[name].iloc[-1]
        means, deviations = (dk.data.get(f"labels_{name}") or {} for name in ("mean", "std"))
        row |= {label: value, f"{label}_mean": means.get(label, 0.0), f"{label}_std": deviations.get(label, 0.0)}
    row |= {DO_PREDICT: decided.usable[-1]}
    row |= dk.data.get("extra_returns_per_train") or {}
    row |= {f"{name}_price": candle[name] for name in ("high", "low", "close")}
    return {name: float(value) for name, value in row.items()} | {DATE: date}
