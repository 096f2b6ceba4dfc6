"""What a strategy computes for FreqAI, and what that decides before anything is trained: who enters, and whether all
the columns it declares are a policy's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from freqtrade.enums import TRADE_MODES
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.freqai.columns import ACTION_COLUMN, KNOWN_COLUMNS
from mtfscalper.freqai.computed_frame import computed_columns
from mtfscalper.freqai.short_periods import check_candles
from mtfscalper.freqai.trade_decisions import check_asks_for_decisions
from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL
from mtfscalper.settings import Settings

logger = logging.getLogger(__name__)

_SIGNALS = (LONG_SIGNAL, SHORT_SIGNAL)


class StrategyRefusedError(SystemExit):
    """A bot cannot trade its strategy. freqtrade swallows a strategy's ordinary exceptions, and asks again."""


@contextmanager
def bots_stop_too(config: Mapping[str, Any]) -> Iterator[None]:
    """Let what refuses a strategy end a bot as it ends a backtest, in one message.

    :param config: the freqtrade config, with its run mode
    :raises StrategyRefusedError: in a bot, in place of an OperationalException
    """
    try:
        yield
    except OperationalException as error:
        if config.get("runmode") not in TRADE_MODES:
            raise
        logger.error("%s", error)
        raise StrategyRefusedError(str(error)) from error


def check_strategy(strategy: IStrategy, config: Mapping[str, Any], settings: Settings) -> None:
    """Refuse what can be told of a strategy before it computes anything.

    :param config: the freqtrade config
    :raises OperationalException: in a bot a StrategyRefusedError
    """
    if settings.rl.decision_mode == "exact":
        with bots_stop_too(config):
            check_asks_for_decisions(strategy)
    data = getattr(strategy, "dp", None)
    if data is not None:
        check_candles(config, data)


class StrategyFrame(NamedTuple):
    """The frame of a pair with what a strategy computes on it for FreqAI.

    :ivar strategy: the strategy's name
    :ivar rows: with features, one row a candle
    :ivar computed: what training and predictions read of it, see :func:`computed_columns`
    :ivar labels: the columns that the strategy declares, by FreqAI's rule for their names
    :ivar signals: the classic signals among what FreqAI has computed; a bot trains on these alone
    :ivar other_signals: those that the strategy computed outside, of which a bot's training knows nothing
    """

    strategy: str
    pair: str
    rows: DataFrame
    computed: DataFrame
    labels: tuple[str, ...]
    signals: tuple[str, ...]
    other_signals: tuple[str, ...]

    @classmethod
    def of(cls, dk: FreqaiDataKitchen, strategy: IStrategy, frame: DataFrame, pair: str) -> StrategyFrame:
        """Let a strategy compute its features, once.

        :param dk: FreqAI's own kitchen, of the pair
        :param frame: the strategy's, one row a candle
        """
        started = time.perf_counter()
        outside = [name for name in _SIGNALS if name in frame.columns]
        rows = dk.use_strategy_to_populate_indicators(
            strategy, prediction_dataframe=frame.drop(columns=outside), pair=pair
        )
        signals = tuple(name for name in _SIGNALS if name in rows.columns)
        others = tuple(name for name in outside if name not in signals)
        # The strategy may read them in its entries.
        by_date = frame.set_index("date")
        rows = rows.assign(**{name: by_date[name].reindex(rows["date"]).to_numpy() for name in others})
        labelled = strategy.set_freqai_targets(rows.copy(), metadata={"pair": pair})
        made = cls.from_rows(type(strategy).__name__, pair, rows, labelled)._replace(
            signals=signals, other_signals=others
        )
        logger.info(
            "%s: the strategy computed %d columns on %d candles in %.1f s.",
            pair,
            len(made.computed.columns) - 1,
            len(rows),
            time.perf_counter() - started,
        )
        return made

    @classmethod
    def from_rows(cls, strategy: str, pair: str, rows: DataFrame, labelled: DataFrame) -> StrategyFrame:
        """The frame of rows that a strategy has computed.

        :param strategy: its name
        :param labelled: the rows with the columns that the strategy declares
        """
        labels = tuple(name for name in labelled.columns if "&" in name)
        signals = tuple(name for name in _SIGNALS if name in rows.columns)
        return cls(strategy, pair, rows, computed_columns(labelled), labels, signals, ())

    def settled(self, asked: Settings, settings: Settings) -> Settings:
        """The settings with which the pair is learned.

        :param asked: what the config says
        :param settings: those of the pairs before it, of the same strategy; ``asked`` itself for the first
        :raises OperationalException: if the strategy cannot be learned with them
        """
        self._check_labels()
        decided = asked.for_strategy(sets_signals=bool(self.signals or self.other_signals))
        mode = decided.rl.entry_mode
        if settings is not asked and mode != settings.rl.entry_mode:
            raise OperationalException(
                f"freqai.rl_config.entry_mode is 'auto', and {self.strategy} sets classic signals for some pairs and "
                f"for others, such as {self.pair}, not; accepted: one mode for all; remedy: set it to 'agent', 'gated' "
                "or 'classic'"
            )
        missing = [name for name in _SIGNALS if name not in self.signals]
        if missing and mode != "agent":
            outside = ", but outside, where a bot's training does not see them" if self.other_signals else ""
            raise OperationalException(
                f"freqai.rl_config.entry_mode is {asked.rl.entry_mode!r}, and {self.strategy} sets no "
                f"{' and '.join(missing)} for {self.pair} in feature_engineering_standard{outside}; accepted: "
                f"{' and '.join(_SIGNALS)}, 0 or 1, set there (see mtfscalper.market.signals); remedy: add them, or "
                "set entry_mode to 'agent', which needs no signals"
            )
        if settings is asked and decided is not asked:
            logger.info(
                "%s: entry_mode 'auto' is %r, for the strategy sets %s classic signals.",
                self.strategy,
                mode,
                "its" if self.signals else "no",
            )
        return decided if settings is asked else settings

    def _check_labels(self) -> None:
        unknown = [name for name in self.labels if name not in KNOWN_COLUMNS]
        if unknown or ACTION_COLUMN not in self.labels:
            what = f"declares {', '.join(unknown)}" if unknown else f"declares no {ACTION_COLUMN}"
            raise OperationalException(
                f"{self.strategy}'s set_freqai_targets {what} for {self.pair}; accepted: {ACTION_COLUMN}, and beside "
                f"it {', '.join(name for name in KNOWN_COLUMNS if name != ACTION_COLUMN)}, for a policy predicts "
                "nothing else; remedy: declare only these (mtfscalper.strategy.declare_prediction_columns does)"
            )
