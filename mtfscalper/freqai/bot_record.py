"""What a bot did under an identifier, for the backtest that repeats it: its journal and its record of decisions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import freqtrade.configuration
from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.exchange import timeframe_to_msecs

from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.bot_journal import KINDS, NOT_FILLED, PRICE_EXITS, BotTrade, Pass, has_journal, read_journal
from mtfscalper.freqai.candle_clock import candle_open_ms, milliseconds
from mtfscalper.freqai.decision_record import bots_decisions, records_folder
from mtfscalper.freqai.exit_policy import ExitDecision
from mtfscalper.freqai.prediction_history import PredictionHistory
from mtfscalper.freqai.sealing import HISTORY_NAMES, unsealed_history
from mtfscalper.seals import Seals
from mtfscalper.settings import Settings

# Later than any moment, milliseconds since 1970.
_ALWAYS = 2**62
_OPTION = "--freqai-backtest-live-models"


def repeats_bot(config: Mapping[str, Any]) -> bool:
    """Whether a run is a backtest of what a bot did (``--freqai-backtest-live-models``).

    :param config: the freqtrade config, with its run mode
    """
    return bool(config.get("freqai_backtest_live_models")) and config.get("runmode") == RunMode.BACKTEST


class Answer(NamedTuple):
    """What a bot decided about a trade at a candle.

    :ivar decision: None where it did not decide: it was down, or had no whole lookback; the trade was held
    :ivar policy: that decided
    """

    decision: ExitDecision | None
    policy: str


_NO_ANSWER = Answer(None, "")


class BotRecord:
    """What a bot did.

    :ivar kind: ``dry_run`` or ``live``
    :ivar journal: its passes and trades
    """

    def __init__(self, folder: Path, kind: str, timeframe_ms: int) -> None:
        """
        :param folder: of the identifier's records
        """
        self.kind, self.journal = kind, read_journal(folder, kind)
        self._timeframe_ms = timeframe_ms
        # By pair, candle of the entry, and side: the last candle in which the bot had a trade, and its answers.
        self._last_ms: dict[tuple[str, int, str], int] = {}
        self._answers: dict[tuple[str, int, str], dict[int, Answer]] = {}
        for asked in bots_decisions(folder, kind):
            key = asked.pair, self._candle(asked.opened_ms), asked.side
            # Asked again in one candle, a bot was restarted in it, and the earlier answer was carried out.
            self._answers.setdefault(key, {}).setdefault(asked.candle_ms, Answer(asked.decision, asked.policy))
            self._last_ms[key] = asked.candle_ms
        for trade in self.journal.trades:
            if trade.exit_reason != NOT_FILLED and not self._has_lost_answers(trade):
                is_open = trade.closed_ms is None
                self._last_ms[self.key(trade)] = _ALWAYS if is_open else self._candle(trade.closed_ms or 0)
        self._policies = self._policies_in_use()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BotRecord:
        """The record of the kind of bot that the config is of; of the other kind where there is none.

        :param config: the freqtrade config
        """
        folder = records_folder(config)
        return cls(folder, _kind_of_bot(config, folder), timeframe_to_msecs(config["timeframe"]))

    def key(self, trade: BotTrade) -> tuple[str, int, str]:
        """What a trade of the bot and that of a backtest have in common."""
        return trade.pair, self._candle(trade.opened_ms), trade.side

    @property
    def start_ms(self) -> int | None:
        """The row that was decided on first, milliseconds since 1970; None where nothing is known of any."""
        rows = [one.row_ms for one in self.journal.passes if one.policy]
        return min(rows) if rows else None

    @property
    def stop_ms(self) -> int:
        """The candle in which the bot was seen last, milliseconds since 1970; 0 where it was not."""
        return max((one.row_ms for one in self.journal.passes), default=-self._timeframe_ms) + self._timeframe_ms

    def had(self, pair: str, entry_ms: int, side: str, candle_ms: int) -> bool:
        """Whether the bot, too, was in a trade as a candle opened.

        :param entry_ms: the candle of its entry
        """
        return candle_ms <= self._last_ms.get((pair, entry_ms, side), -1)

    def answer(self, pair: str, entry_ms: int, side: str, candle_ms: int) -> Answer:
        """What the bot decided about a trade that it had as a candle opened; see :meth:`had`."""
        return self._answers.get((pair, entry_ms, side), {}).get(candle_ms, _NO_ANSWER)

    @property
    def leaving(self) -> dict[tuple[str, int, str], set[int]]:
        """The candles at which the bot decided to leave, by pair, candle of the entry, and side."""
        return {
            key: {candle for candle, answer in answers.items() if answer.decision and answer.decision.leave}
            for key, answers in self._answers.items()
        }

    def _has_lost_answers(self, trade: BotTrade) -> bool:
        """Whether the bot must have been asked about a trade, and nothing is on record: files may be removed."""
        if self.key(trade) in self._answers:
            return False
        _, entry_ms, _ = self.key(trade)
        end_ms = _ALWAYS if trade.closed_ms is None else self._candle(trade.closed_ms)
        if trade.exit_reason not in PRICE_EXITS:
            # In the candle of its end a stop may come before the question; in that of its entry nobody asks.
            end_ms += 1
        asked_at = (one.row_ms + self._timeframe_ms for one in self.journal.passes if one.pair == trade.pair)
        return any(entry_ms < candle < end_ms for candle in asked_at)

    def decided_passes(self, pair: str) -> list[Pass]:
        """The passes over a pair by which the bot traded, in the order of their rows: one for each.

        Left out are those that came when the candle was over in which they would have been traded on. Of a row that
        was passed over twice, as when a bot is restarted, the first counts on which a policy decided.
        """
        chosen: dict[int, Pass] = {}
        for one in self.journal.passes:
            is_late = one.at_ms >= one.row_ms + 2 * self._timeframe_ms
            if one.pair != pair or is_late:
                continue
            known = chosen.get(one.row_ms)
            if known is None or (known.columns.get("do_predict") != 1 and one.columns.get("do_predict") == 1):
                chosen[one.row_ms] = one
        return [chosen[row] for row in sorted(chosen)]

    def policy_in_force(self, pair: str, row_ms: int) -> tuple[str, int, int] | None:
        """The policy that the bot would have asked on a row, and the rows it was in use for.

        :return: its folder, the first row, and the first that is no longer its own; None before the first
        """
        starts, names = self._policies.get(pair, ([], []))
        at = bisect_right(starts, row_ms) - 1
        if at < 0:
            return None
        return names[at], starts[at], starts[at + 1] if at + 1 < len(starts) else _ALWAYS

    def _policies_in_use(self) -> dict[str, tuple[list[int], list[str]]]:
        found: dict[str, tuple[list[int], list[str]]] = {}
        for one in sorted(self.journal.passes, key=lambda one: (one.row_ms, one.at_ms)):
            starts, names = found.setdefault(one.pair, ([], []))
            if one.policy and (not names or names[-1] != one.policy):
                if starts and starts[-1] == one.row_ms:
                    # Retrained between two passes over one row.
                    starts.pop()
                    names.pop()
                starts.append(one.row_ms)
                names.append(one.policy)
        return found

    def _candle(self, moment_ms: int) -> int:
        return candle_open_ms(self._timeframe_ms, moment_ms)


def _kind_of_bot(config: Mapping[str, Any], folder: Path) -> str:
    """Of which kind of bot there is a record: of the config's own kind, if there is one.

    :param config: the freqtrade config; a backtest's own says ``dry_run``, whatever the user wrote
    """
    written = config.get("original_config", config)
    own, other = KINDS if written.get("dry_run", True) else KINDS[::-1]
    return other if _has_record(folder, other) and not _has_record(folder, own) else own


def _has_record(folder: Path, kind: str) -> bool:
    return has_journal(folder, kind) or any(folder.glob(f"{kind}_*.feather"))


# ---------------------------------------------------------------------- before candles are loaded


def live_models_complaints(settings: Settings, config: Mapping[str, Any]) -> Iterator[str]:
    """Complaints about a backtest of what a bot did: of what it needs, nothing is there.

    :param config: the freqtrade config
    """
    if not config.get("freqai_backtest_live_models"):
        return
    identifier, user_dir = str(config["freqai"]["identifier"]), Path(config["user_data_dir"])
    folder, records = user_dir / "models" / identifier, records_folder(config)
    if any(has_journal(records, kind) for kind in KINDS):
        return
    if not any((folder / name).is_file() for name in HISTORY_NAMES):
        others = _identifiers_of_bots(user_dir)
        yield (
            f"freqai.identifier is {identifier!r}, and {_OPTION} finds nothing that a bot did under it: neither a "
            f"journal in {records} nor {folder / HISTORY_NAMES[0]}; accepted: the identifier of a bot that has traded "
            f"with this user directory ({', '.join(others) or 'there is none'}); remedy: name it, or let `freqtrade "
            "trade` run first, or leave the option out"
        )
        return
    history = unsealed_history(folder, Seals(user_dir))
    if history is not None:
        yield (
            f"{history} was not sealed by this user directory, or is damaged, and {_OPTION} would unpickle it, which "
            "runs whatever code is in it; accepted: what a bot of this user directory wrote; remedy: if it is yours, "
            f"`mtfscalper seal {folder}` seals it"
        )
    elif settings.rl.decision_mode == "exact" and not any(
        [*records.glob("dry_run_*.feather"), *records.glob("live_*.feather"), *_kept_policies(config, folder)]
    ):
        yield (
            f"freqai.rl_config.decision_mode is 'exact', and {_OPTION} finds nothing to decide about trades with: "
            f"neither a bot's record of decisions in {records} nor a policy in {folder}; accepted: an identifier whose "
            "bot left one of them; remedy: restore them, or set decision_mode to 'replay', which needs neither"
        )


def _kept_policies(config: Mapping[str, Any], folder: Path) -> list[Path]:
    return [*folder.glob("sub-train-*/*_model.zip"), *Archive.from_config(config).bot.glob("sub-train-*/*_model.zip")]


def _identifiers_of_bots(user_dir: Path) -> list[str]:
    found = {path.parent.name for path in (user_dir / "models").glob(f"*/{HISTORY_NAMES[0]}")}
    found |= {path.parent.name for kind in KINDS for path in (user_dir / "decisions").glob(f"*/{kind}_*.jsonl")}
    return sorted(found)


def take_bots_timerange(config: Mapping[str, Any]) -> None:
    """Let freqtrade backtest exactly the candles that a bot decided on, where it repeats a bot.

    freqtrade unpickles FreqAI's history for it, sealed or not, and takes whole days, which begin before the bot did and
    end after it. It looks its function up as a backtest is made, after the strategy.

    :param config: the freqtrade config, with its run mode
    """
    if repeats_bot(config):
        # Here, because it imports FreqAI, which a strategy is loaded without.
        from freqtrade.freqai import utils

        utils.get_timerange_backtest_live_models = bots_timerange


def bots_timerange(config: dict[str, Any]) -> str:
    """The candles that a bot decided on and traded in, as freqtrade writes a timerange.

    :param config: the freqtrade config
    :raises OperationalException: if it decided on none
    """
    record = BotRecord.from_config(config)
    start_ms, stop_ms = record.start_ms, record.stop_ms
    if start_ms is None:
        archive, seals = Archive.from_config(config), Seals(Path(config["user_data_dir"]))
        folder = Path(config["user_data_dir"]) / "models" / archive.identifier
        frames = PredictionHistory(folder, archive.bot / HISTORY_NAMES[0], seals).read().values()
        rows = [milliseconds(date) for frame in frames for date in frame.loc[frame["do_predict"] == 1, "date_pred"]]
        if not rows:
            raise OperationalException(
                f"freqai.identifier is {archive.identifier!r}, whose bot has decided on nothing yet; accepted: a bot "
                f"with a policy; remedy: let it run until its first training is over, then use {_OPTION}"
            )
        start_ms, stop_ms = min(rows), max(rows) + timeframe_to_msecs(config["timeframe"])
    # Survivors are closed at the open of the last candle, and nothing is entered there: one more than the bot had.
    stop_ms += timeframe_to_msecs(config["timeframe"])
    timerange = freqtrade.configuration.TimeRange("date", "date", start_ms // 1000, stop_ms // 1000)
    return timerange.timerange_str
