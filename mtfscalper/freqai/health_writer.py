"""Gathers how a bot is, and writes it down whenever that changes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from freqtrade.exchange import timeframe_to_seconds
from freqtrade.freqai.data_drawer import METADATA
from freqtrade.freqai.freqai_interface import IFreqaiModel
from freqtrade.persistence import Trade
from freqtrade.strategy import IStrategy
from pandas import DataFrame
from sqlalchemy.exc import SQLAlchemyError

from mtfscalper.freqai.bookkeeping import Bookkeeper
from mtfscalper.freqai.columns import ACTION_COLUMN, EXIT_COLUMN, LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN
from mtfscalper.freqai.expiry import Expiry
from mtfscalper.freqai.health import BotHealth, PairHealth
from mtfscalper.freqai.owner import Owner
from mtfscalper.freqai.sharing import Process
from mtfscalper.freqai.trade_decisions import trade_decisions_of
from mtfscalper.freqai.training_loop import TrainingLoop
from mtfscalper.trading.actions import Action

logger = logging.getLogger(__name__)

_PROBABILITIES = {
    Action.LONG_ENTER: LONG_ENTER_COLUMN,
    Action.SHORT_ENTER: SHORT_ENTER_COLUMN,
    Action.LONG_EXIT: EXIT_COLUMN,
    Action.SHORT_EXIT: EXIT_COLUMN,
}


class HealthWriter:
    """Writes the health of a bot. May be called from any thread; whatever goes wrong in it stops nothing."""

    def __init__(self, model: IFreqaiModel, drawer: Bookkeeper, owner: Owner, trainings: TrainingLoop) -> None:
        """
        :param model: of the bot
        :param drawer: the model's
        """
        self._model, self._drawer, self._owner, self._trainings = model, drawer, owner, trainings
        self._folder = Path(model.full_path)
        self._process = Process.this()._asdict()
        self._strategy: IStrategy | None = None
        self._looked_at = self._stopped_at = 0.0
        # Of each pair, what its last candle came to, and when the bot passed over it.
        self._decided: dict[str, PairHealth] = {}
        self._passed_at: dict[str, float] = {}
        # Of each pair that the bot trades now, since when it does.
        self._met_at: dict[str, float] = {}
        # As of the last pass: pairs of open trades, and those that the strategy reads beside the ones it trades.
        self._held: set[str] = set()
        self._read: set[str] = set()
        self._written: BotHealth | None = None
        self._lock = threading.Lock()
        # What is told of once, and again after it went well.
        self._failing: set[str] = set()

    def passed(self, pair: str, strategy: IStrategy, frame: DataFrame, falls_back: bool | None) -> None:
        """Note a pass over a pair, and write.

        :param frame: as the strategy gets it, with the policy's columns
        :param falls_back: see :class:`mtfscalper.freqai.health.PairHealth`
        """
        self._strategy = strategy
        self._looked_at = self._passed_at[pair] = time.time()
        with self._told("known"):
            self._note_pairs(strategy)
            self._decided[pair] = replace(_decided(frame), falls_back=falls_back)
        self.write()

    def _note_pairs(self, strategy: IStrategy) -> None:
        """Note the pairs that the bot has to do with; by its own thread, whose database this is."""
        if strategy.dp is not None:
            self._read = {pair for pair, *_ in strategy.gather_informative_pairs()}
        # FreqAI's hooks may be called without a bot, and its database, around them.
        if hasattr(Trade, "session"):
            # Where the database is locked for a moment, those of before count.
            with suppress(SQLAlchemyError):
                self._held = {trade.pair for trade in Trade.get_trades_proxy(is_open=True)}

    def stopped(self) -> None:
        """Note that the bot stops, and write."""
        self._stopped_at = time.time()
        self.write()

    def write(self) -> None:
        """Write, if anything has changed since it was last written."""
        if self._strategy is None:
            return
        with self._told("written"), self._lock:
            health = self._gathered(self._strategy)
            if self._written is None or replace(health, at=self._written.at) != self._written:
                health.write(self._folder)
                self._written = health

    @contextmanager
    def _told(self, done: str) -> Iterator[None]:
        """Let the bot go on whatever fails, for nothing of its work depends on its health; say so once.

        :param done: what cannot be done with it then
        """
        try:
            yield
        except Exception as error:
            if done not in self._failing:
                logger.warning(
                    "The bot's health cannot be %s (%s: %s).", done, type(error).__name__, error, exc_info=True
                )
            self._failing.add(done)
        else:
            self._failing.discard(done)

    def _gathered(self, strategy: IStrategy) -> BotHealth:
        freqai, pairs = self._model.freqai_info, self._traded(strategy)
        return BotHealth(
            identifier=self._model.identifier,
            process=self._process,
            runmode=str(self._model.config["runmode"].value),
            at=time.time(),
            looked_at=self._looked_at,
            candle_seconds=timeframe_to_seconds(strategy.timeframe),
            retrain_seconds=3600.0 * float(freqai.get("live_retrain_hours", 0)),
            stopped_at=self._stopped_at,
            trains=self._trainings.is_alive,
            troubles=self._owner.troubles_of({*pairs, *self._read}),
            pairs={pair: self._pair(pair, decided, strategy) for pair, decided in pairs.items()},
        )

    def _traded(self, strategy: IStrategy) -> dict[str, PairHealth]:
        """What the last candle of each pair came to that the bot trades, or still has a trade of."""
        listed = strategy.dp.current_whitelist() if strategy.dp is not None else []
        # It may have been entered after the last pass over it.
        latest = self._looked_at - timeframe_to_seconds(strategy.timeframe)
        late = {pair for pair, passed_at in dict(self._passed_at).items() if passed_at > latest}
        pairs = list(dict.fromkeys([*listed, *sorted(self._held | late)]))
        self._met_at = {pair: self._met_at.get(pair, time.time()) for pair in pairs}
        return {
            pair: replace(self._decided.get(pair, PairHealth()), met_at=self._met_at[pair], is_listed=pair in listed)
            for pair in pairs
        }

    def _pair(self, pair: str, decided: PairHealth, strategy: IStrategy) -> PairHealth:
        drawer, freqai = self._drawer, self._model.freqai_info
        policy, entry = drawer.policy_in_use(pair), drawer.pair_dict.get(pair)
        trained_at = float(policy.trained_timestamp) if policy else 0.0
        # 0 where it is to be replaced at once.
        noted_at = float(entry["trained_timestamp"]) if entry else 0.0
        expires_at = Expiry.from_freqai(freqai).expires_at(trained_at) if trained_at else None
        attempts, current = self._trainings.attempts(pair), self._trainings.under_way.get(pair)
        last = self._trainings.last.get(pair)
        retrain_at = noted_at + 3600.0 * float(freqai.get("live_retrain_hours", 0)) if noted_at else 0.0
        next_at = max(retrain_at, attempts.next_at) if decided.is_listed else 0.0
        metadata = drawer.meta_data_dictionary.get(pair, {}).get(METADATA, {})
        health = replace(
            decided,
            trained_at=trained_at,
            expires_at=expires_at or 0.0,
            retrain_at=next_at,
            n_features=len(metadata.get("training_features_list", ())),
            training_since=current.began_at if current is not None else 0.0,
            n_failures=attempts.n_failures,
        )
        if last is not None:
            health = replace(health, ended_at=last.ended_at, seconds=last.seconds, error=last.error)
        for decisions in trade_decisions_of(strategy):
            if (asked := decisions.last(pair)) is not None:
                at_ms, decision = asked
                health = replace(
                    health, asked_at=at_ms / 1000, leave=decision.leave, leave_probability=decision.probability
                )
        return health


def _decided(frame: DataFrame) -> PairHealth:
    """What the last candle of a strategy's frame came to."""
    # NaN where nobody decided, as on a candle that was missed and that an exchange which lags behind sends last.
    last = frame.iloc[-1].dropna().to_dict()
    action = Action(int(last.get(ACTION_COLUMN, Action.NEUTRAL)))
    return PairHealth(
        candle_at=last["date"].timestamp(),
        do_predict=int(last.get("do_predict", 0)),
        action=action.name,
        probability=float(last.get(_PROBABILITIES.get(action, ""), _holding(last))),
    )


def _holding(last: Mapping[Any, Any]) -> float:
    """The probability that is left for doing nothing."""
    return max(0.0, 1.0 - float(last.get(LONG_ENTER_COLUMN, 0.0)) - float(last.get(SHORT_ENTER_COLUMN, 0.0)))
