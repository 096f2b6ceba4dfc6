"""A backtest of what a bot did: its own decisions again, candle by candle (``--freqai-backtest-live-models``).

Flat, the columns are those that the bot gave its strategy. About a trade that the bot had too, what the bot decided is
decided again; about any other, the policy that the bot had then is asked.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from pandas import DataFrame

from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.bot_record import Answer, BotRecord
from mtfscalper.freqai.columns import PREDICTION_COLUMNS
from mtfscalper.freqai.exit_policy import ExitPolicy
from mtfscalper.freqai.kept_policies import KeptPolicies, PairRows
from mtfscalper.freqai.replay_report import ReplayReport
from mtfscalper.freqai.trade_decisions import trade_decisions_of
from mtfscalper.freqai.traded_strategy import TradedStrategy
from mtfscalper.seals import Seals

logger = logging.getLogger(__name__)

_PRICES = ("high", "low", "close")


class LiveReplay:
    """What a bot decided, given to a backtest; see :class:`mtfscalper.freqai.trade_decisions.BotsDecisions`."""

    def __init__(self, traded: TradedStrategy, config: Mapping[str, Any], archive: Archive, seals: Seals) -> None:
        """
        :param traded: the strategy of the backtest
        :param config: the freqtrade config
        """
        self.traded = traded
        self._config = config
        self._record = BotRecord.from_config(config)
        self._policies = KeptPolicies(Path(config["user_data_dir"]) / "models" / archive.identifier, archive, seals)
        self._pairs: dict[str, PairRows] = {}
        self._report = ReplayReport(self._record, config)
        # freqtrade tells a strategy nothing as a backtest ends.
        atexit.register(self._report.tell_of_process)

    def frame(
        self, frame: DataFrame, pair: str, kitchen: FreqaiDataKitchen, historic: Mapping[str, DataFrame]
    ) -> DataFrame:
        """A pair's frame as FreqAI returns it, and from now on the bot's decisions about the pair's trades.

        :param frame: the strategy's, one row a candle
        :param kitchen: FreqAI's, of the pair
        :param historic: what the bot predicted, by pair, as FreqAI keeps it
        """
        strategy = self.traded.strategy
        if self.traded.settings.rl.decision_mode == "exact":
            computed = self.traded.compute(kitchen, frame, pair)
            candles = self.traded.candles_to_decide(pair, frame)
            environment = self.traded.terms.environment(pair)
            # As FreqAI names features for a bot.
            rows = kitchen.remove_special_chars_from_feature_names(computed.rows)
            self._pairs[pair] = PairRows(
                kitchen, rows, candles, environment, self.traded.settings, self.traded.trained_with(pair)
            )
        for decisions in trade_decisions_of(strategy):
            decisions.follow_bot(pair, self)
        self._report.take(pair, self._traded_rows(pair, frame))
        columns = self._columns(pair, historic)
        if columns.empty:
            logger.warning(
                "%s: the bot of the identifier %r never decided on it, so that nothing is traded.",
                pair,
                self._config["freqai"]["identifier"],
            )
        own = frame.drop(columns=[name for name in columns.columns if name in frame.columns])
        decided = columns.reindex(own["date"].dt.as_unit("ms")).reset_index(drop=True)
        decided = decided.fillna(dict.fromkeys(decided.columns.drop("date_pred"), 0.0))
        return pd.concat([own.reset_index(drop=True), decided], axis=1)

    def _traded_rows(self, pair: str, frame: DataFrame) -> DataFrame:
        """The rows of a frame that freqtrade will trade on; a warning where those are not all that the bot had."""
        rows = frame.iloc[self.traded.source.startup_candles() :]
        start_ms, stop_ms = self._record.start_ms, self._record.stop_ms
        if rows.empty or start_ms is None:
            return rows
        first, last = rows["date"].iloc[0], rows["date"].iloc[-1]
        began, ended = (pd.Timestamp(moment, unit="ms", tz="UTC") for moment in (start_ms, stop_ms))
        if began < first or last < ended:
            logger.warning(
                "%s: the bot traded from %s to %s, and with the candles there are freqtrade backtests from %s to %s: "
                "the rest is left out; accepted: candles of that time, and of train_period_days and "
                "startup_candle_count before it; remedy: `freqtrade download-data` for it.",
                pair,
                began,
                ended,
                first,
                last,
            )
        return rows

    # ------------------------------------------------------------------ about open trades

    def had(self, pair: str, entry_ms: int, side: str, candle_ms: int) -> bool:
        """See :meth:`BotRecord.had`."""
        return self._record.had(pair, entry_ms, side, candle_ms)

    def answer(self, pair: str, entry_ms: int, side: str, candle_ms: int) -> Answer:
        """See :meth:`BotRecord.answer`."""
        return self._record.answer(pair, entry_ms, side, candle_ms)

    def exit_policy(self, pair: str, row_ms: int) -> ExitPolicy | None:
        """The policy that the bot had at a row, None where it had none or keeps it no longer: the trade is held."""
        known = self._pairs.get(pair)
        if known is None:
            return None
        used = self._record.policy_in_force(pair, row_ms)
        if used is None:
            # Of a bot without a journal, or before it.
            used = self._policies.trained_before(pair, row_ms)
        policy = self._policies.load(*used, known) if used else None
        if policy is None:
            self._report.lost.add((pair, row_ms + known.candles.timeframe_ms))
        return policy

    def last_candle_ms(self, pair: str) -> int:
        """The last candle of the backtest's data, milliseconds since 1970."""
        return self._report.last_candle_ms(pair)

    # ------------------------------------------------------------------ flat

    def _columns(self, pair: str, historic: Mapping[str, DataFrame]) -> DataFrame:
        """The columns that a pair's frame is given, by date: what the bot's strategy saw of each candle as the last.

        Rows of the history whose ``do_predict`` is not 1 are no decisions: what the bot looked at before it began, and
        candles that it missed. The others are joined by their dates, and the journal's come first: where a policy was
        no longer to enter anything, the history keeps what it decided, and the journal what the strategy was given.
        """
        saved = historic.get(pair)
        if saved is None or "date_pred" not in saved:
            names = [f"{name}{suffix}" for name in PREDICTION_COLUMNS for suffix in ("", "_mean", "_std")]
            saved = DataFrame(columns=[*names, "do_predict", "date_pred"], dtype=float)
        columns = saved.set_index(pd.to_datetime(saved["date_pred"], utc=True).dt.as_unit("ms")).drop(
            columns="date_pred"
        )
        columns = columns[~columns.index.duplicated(keep="last")]
        columns = columns[columns["do_predict"] == 1]
        passes = self._record.decided_passes(pair)
        if passes:
            rows = [
                {
                    **one.columns,
                    **{f"{name}_price": price for name, price in zip(_PRICES, one.prices[1:], strict=True)},
                }
                for one in passes
            ]
            dates = pd.to_datetime([one.row_ms for one in passes], unit="ms", utc=True).as_unit("ms")
            noted = DataFrame(rows, index=dates)
            noted = noted.reindex(columns=[*columns, *(name for name in noted if name not in columns)])
            # Means, deviations and what else a model returns stand in the history alone.
            noted = noted.fillna(columns.reindex(noted.index))
            columns = pd.concat([columns[~columns.index.isin(dates)], noted]) if len(columns) else noted
        return columns.sort_index().assign(date_pred=lambda found: found.index)
