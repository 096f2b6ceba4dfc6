"""What would have been entered at candles at which a bot made no pass in time.

A pass that came too late says so itself. Else the policy that the bot had then is asked, if it is still kept; classic
signals enter without one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from freqtrade.exchange import Exchange, timeframe_to_msecs
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.envs.episodes import permitted_entries
from mtfscalper.freqai.bot_record import BotRecord
from mtfscalper.freqai.columns import ACTION_COLUMN
from mtfscalper.freqai.expiry import Expiry
from mtfscalper.freqai.kept_policies import KeptPolicies, PairRows
from mtfscalper.freqai.strategy_rules import UserParts, settings_of_strategy
from mtfscalper.freqai.traded_strategy import TradedStrategy
from mtfscalper.policy.recurrent import RecurrentPolicyError
from mtfscalper.reporting.audit.entries import SIDES, Signals
from mtfscalper.reporting.origin import moment
from mtfscalper.reporting.quiet import quiet
from mtfscalper.reporting.run_result import RunResult
from mtfscalper.reporting.strategy_columns import loaded_backtest, one_line
from mtfscalper.trading.actions import Action, ActionTable

_PURGED, _EXPIRED, _NO_POLICY, _NO_ROW = (
    "their policy is no longer kept, or can no longer decide",
    "their policy had expired by then",
    "the bot had no policy yet",
    "the data lack candles that a decision looks back on",
)


class Missed(NamedTuple):
    """What would have been entered at missed candles, by pair.

    :ivar signals: their ``known`` is empty: none of it was decided in time
    :ivar notes: what is to be known of it, one sentence each
    """

    signals: dict[str, Signals]
    notes: tuple[str, ...]


def missed_rows(record: BotRecord, pairs: list[str], timeframe_ms: int) -> dict[str, list[int]]:
    """The rows that a bot did not decide on in time, from its first pass over a pair to its last; milliseconds."""
    found = {}
    for pair in pairs:
        rows = [one.row_ms for one in record.decided_passes(pair)]
        if rows and (missing := sorted(set(range(rows[0], rows[-1] + 1, timeframe_ms)) - set(rows))):
            found[pair] = missing
    return found


def missed_signals(
    result: RunResult, record: BotRecord, exchange: Exchange, progress: Callable[[str], None] = lambda _: None
) -> Missed:
    """Work out what would have been entered where a bot made no pass in time; trains nothing, writes nothing.

    :param exchange: with a market for each of the bot's pairs
    """
    timeframe_ms = timeframe_to_msecs(result.timeframe)
    missing = missed_rows(record, result.pairs, timeframe_ms)
    actions = {pair: _of_late_passes(record, pair, rows) for pair, rows in missing.items()}
    to_ask = {
        pair: left for pair, rows in missing.items() if (left := [row for row in rows if row not in actions[pair]])
    }
    unknown: Counter[str] = Counter()
    if to_ask:
        progress("asking what would have been entered at the candles that the bot missed")
        try:
            # Its notes say what is not known.
            with quiet("mtfscalper", logging.CRITICAL), _Asker.loaded(result, record, exchange) as asker:
                for pair, rows in to_ask.items():
                    asked = asker.actions(pair, rows, unknown)
                    actions[pair] |= asked
        except Exception as error:
            # Of the user's code, and of what lies in a folder: it may raise anything.
            n_known = sum(len(of_pair) for of_pair in actions.values())
            unknown = Counter({one_line(error): sum(map(len, missing.values())) - n_known})
    signals = {
        pair: Signals(
            {row + timeframe_ms: SIDES[action] for row, action in actions[pair].items() if action in SIDES},
            frozenset(),
            frozenset(row + timeframe_ms for row in rows),
        )
        for pair, rows in missing.items()
    }
    return Missed(signals, tuple(_notes(record, missing, unknown, timeframe_ms)))


def _notes(
    record: BotRecord, missing: Mapping[str, list[int]], unknown: Counter[str], timeframe_ms: int
) -> Iterator[str]:
    if not missing:
        return
    counts = []
    for pair, rows in missing.items():
        passes = record.decided_passes(pair)
        n_all = (passes[-1].row_ms - passes[0].row_ms) // timeframe_ms + 1
        counts.append(f"{pair} {len(rows)} of {n_all}")
    first = min(rows[0] for rows in missing.values())
    yield (
        f"candles that the bot did not decide at, because it was down or they came late or never: {', '.join(counts)} "
        f"(the first {moment(first)})"
    )
    for why, n_rows in (+unknown).items():
        yield f"what a backtest enters at {n_rows} of them is not known: {why}"


def _of_late_passes(record: BotRecord, pair: str, rows: list[int]) -> dict[int, int]:
    """What passes decided that came too late, by row."""
    passes = ((row, record.counting.get((pair, row))) for row in rows)
    return {row: int(one.columns.get(ACTION_COLUMN, 0)) for row, one in passes if one is not None and one.is_decided}


class _Asker:
    """Asks a bot's kept policies about rows that it did not decide on."""

    def __init__(
        self, result: RunResult, record: BotRecord, strategy: IStrategy, candles: Mapping[str, DataFrame]
    ) -> None:
        """
        :param strategy: with a data provider that has the candles
        """
        config = strategy.config
        # As in the backtest that repeats a bot: FreqAI's kitchen plans no trainings.
        config |= {"freqai": {**config["freqai"], "enabled": True}, "freqai_backtest_live_models": True}
        settings = settings_of_strategy(config)
        self._record, self._candles, self._config = record, candles, config
        self._timeframe_ms = timeframe_to_msecs(result.timeframe)
        self._expiry = Expiry.from_freqai(result.freqai)
        self._traded = TradedStrategy(strategy, config, settings, UserParts.from_settings(settings, config))
        archive = result.archive
        assert archive is not None
        folder = Path(result.user_data_dir) / "models" / archive.identifier
        self._policies = KeptPolicies(folder, archive, result.seals)

    @classmethod
    @contextmanager
    def loaded(cls, result: RunResult, record: BotRecord, exchange: Exchange) -> Iterator[_Asker]:
        """One over the candles of a bot's run, and of the trainings before it."""
        timerange = f"{result.first_ms // 1000}-{result.last_ms // 1000}"
        with loaded_backtest(result._replace(stats={**result.stats, "timerange": timerange}), exchange) as loaded:
            yield cls(result, record, loaded.strategy, loaded.candles)

    def actions(self, pair: str, rows: list[int], unknown: Counter[str]) -> dict[int, int]:
        """What would have been done flat, by row.

        :param unknown: why it is not known of how many rows, which is added to
        """
        if pair not in self._candles:
            unknown[_NO_ROW] += len(rows)
            return {}
        kitchen, frame = FreqaiDataKitchen(self._config, False, pair), self._candles[pair]
        computed = self._traded.compute(kitchen, frame, pair)
        of_pair = PairRows(
            kitchen,
            kitchen.remove_special_chars_from_feature_names(computed.rows),
            self._traded.candles_to_decide(pair, frame),
            self._traded.terms.environment(pair),
            self._traded.settings,
            self._traded.trained_with(pair),
        )
        if of_pair.environment.entry_mode == "classic":
            found = _classic_actions(of_pair)
            known = {row: found[row] for row in rows if row in found}
            unknown[_NO_ROW] += len(rows) - len(known)
            return known
        known, by_policy = {}, dict[str, list[int]]()
        for row in rows:
            used = self._record.policy_in_force(pair, row)
            trained = used[0].rpartition("_")[2] if used is not None else ""
            if used is None:
                unknown[_NO_POLICY] += 1
            elif trained.isdigit() and self._expiry.has_expired(int(trained), (row + self._timeframe_ms) / 1000):
                unknown[_EXPIRED] += 1
            else:
                by_policy.setdefault(used[0], []).append(row)
        for name, of_policy in by_policy.items():
            try:
                answers = self._policies.flat_actions(name, of_policy, of_pair)
            except RecurrentPolicyError as error:
                unknown[str(error)] += len(of_policy)
                continue
            if answers is None:
                unknown[_PURGED] += len(of_policy)
                continue
            known |= {row: int(action) for row, action in answers.items()}
            unknown[_NO_ROW] += len(of_policy) - len(answers)
        return known


def _classic_actions(pair: PairRows) -> dict[int, int]:
    """What classic signals enter, whatever a policy says, by row."""
    rows = pair.rows
    tape = pair.candles.tape(rows, np.zeros((len(rows), 1), dtype=np.float32), np.ones(len(rows), dtype=bool))
    offset = ActionTable.permission_offset(*permitted_entries(tape, pair.environment))
    actions = ActionTable.from_entry_mode("classic").carried_out[offset + int(Action.NEUTRAL)]
    return dict(zip(tape.dates_ms.tolist(), actions.tolist(), strict=True))
