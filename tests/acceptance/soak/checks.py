"""What a soak has shown."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from soak.journal import Journal
from soak.plan import Plan

from mtfscalper.offline.stage import StageHome

CANDLE = pd.Timedelta(minutes=5)
# rl_config.max_trade_duration_candles, its default: so many candles after that of its entry a trade is to leave.
LONGEST_CANDLES = 96
# Of a life's beginning, what growth is not judged by: caches fill. The candles that freqtrade keeps of a pair are full
# after 31 hours (899 of five minutes), SQLite's caches after some 40.
WARM_UP, LONG_WARM_UP = pd.Timedelta(hours=2), pd.Timedelta(hours=42)
# A soak's bot looks at its pairs so often (`process_throttle_secs`).
PASS = pd.Timedelta(minutes=1)
# What makes a request fail; an answer that takes three seconds is an answer.
_REQUEST_FAILS = ("http_418", "http_429", "http_503", "dropped", "half_json", "empty")
# What keeps the last candle from a pass, or makes it unusable, though there is an answer: until 30 or 45 seconds after
# its close. freqtrade asks for it again in the next pass, and then no more before the next candle.
_COMES_LATER = ("clock_skew", "late", "in_1970", "high_below_low", "spike", "duplicate")
_LAST_POLL = 2
# Of each pair: two policies stay (`purge_old_models`), and one is being saved.
MOST_FOLDERS = 3
# Of historic_predictions.pkl, for each pair: docs/bot-policies.md says 1.2.
MOST_MB_A_MONTH = 1.5
# Four weeks had 224 lines an hour, starts and outages included, and 1,291 in the worst one.
MOST_LINES, MOST_LINES_IN_ONE_HOUR = 400, 2500
# freqtrade's words as it lets all open trades be until somebody sends /start.
_TRADER_STOPPED = re.compile(
    r"^([\d-]{10} [\d:]{8}),\d{3} - freqtrade\.worker - ERROR - .*Stopping trader", re.MULTILINE
)

_HOUR = re.compile(r"\d{4}-\d\d-\d\d \d\d(?=:\d\d:\d\d,\d{3} - )")


class Finding(NamedTuple):
    """An answer to one question about a soak.

    :ivar name: what was asked
    :ivar is_good: whether it is as it should be
    :ivar text: figures
    """

    name: str
    is_good: bool
    text: str


def findings(home: StageHome, journal: Journal, plan: Plan, pairs: Sequence[str]) -> list[Finding]:
    """Everything that is asked of a soak that is done."""
    trades, events = trades_of(home), journal.events
    asked = asked_candles(trades, journal.gather(home.decisions), down_times(events), faults_of(home), plan.stop)
    return [
        _decisions(asked),
        _repairs(events, stopped_traders(home)),
        _stuck_trades(trades, down_times(events), plan, faults_of(home)),
        *(_trained(home, pair, plan) for pair in pairs),
        *_growth(journal, plan),
        _folders(journal.samples, len(pairs)),
        _history(journal.samples, len(pairs)),
        _log(home),
    ]


# ---------------------------------------------------------------------- what there is


def trades_of(home: StageHome) -> pd.DataFrame:
    """The bot's trades, with times in UTC."""
    with closing(sqlite3.connect(f"file:{home.database}?mode=ro", uri=True)) as connection:
        trades = pd.read_sql("SELECT * FROM trades ORDER BY open_date", connection)
    for name in ("open_date", "close_date"):
        trades[name] = pd.to_datetime(trades[name], utc=True, format="ISO8601").dt.as_unit("ms")
    return trades


def faults_of(home: StageHome) -> pd.DataFrame:
    """The faults that were served: ``time``, ``kind``, ``target``."""
    lines = home.faults.read_text(encoding="utf-8").splitlines() if home.faults.exists() else []
    frame = pd.DataFrame([json.loads(line) for line in lines], columns=["time", "kind", "target"])
    return frame.assign(time=pd.to_datetime(frame["time"], utc=True, format="ISO8601"))


def stopped_traders(home: StageHome) -> list[pd.Timestamp]:
    """When freqtrade stopped a bot's trader over an error: a repair by hand is needed then.

    One file holds all that every bot said: a stage appends their output to it, and nothing rotates it.
    """
    said = home.log.read_text(encoding="utf-8") if home.log.exists() else ""
    return [pd.Timestamp(moment, tz="UTC") for moment in _TRADER_STOPPED.findall(said)]


def lost_to(faults: pd.DataFrame, stopped: list[pd.Timestamp]) -> Counter[str]:
    """How many traders were stopped right after a fault of each kind."""
    before = (faults[faults["time"] < moment + pd.Timedelta(seconds=1)] for moment in stopped)
    return Counter(served["kind"].iloc[-1] for served in before if len(served))


def down_times(events: list[dict[str, Any]]) -> list[tuple[pd.Timestamp, pd.Timestamp]]:
    """When no bot ran, from an end to the next start."""
    spans, ended = [], None
    for event in events:
        moment = pd.Timestamp(event["time"])
        if event["kind"] == "start" and ended is not None:
            spans.append((ended, moment))
        ended = None if event["kind"] == "start" else moment
    return spans


def asked_candles(
    trades: pd.DataFrame,
    decisions: pd.DataFrame,
    down: list[tuple[pd.Timestamp, pd.Timestamp]],
    faults: pd.DataFrame,
    stop: datetime,
) -> Counter[str]:
    """How often each candle of each trade was decided: once, or why not.

    A candle is due for each that opens while a trade is open, without the one of its entry.
    """
    times = decisions.groupby(["pair", "opened", "candle"]).size() if len(decisions) else pd.Series(dtype=int)
    counted: Counter[str] = Counter()
    for trade in trades.itertuples():
        opened = trade.open_date
        last = pd.Timestamp(stop) - CANDLE if pd.isna(trade.close_date) else trade.close_date.floor(CANDLE)
        for candle in pd.date_range(opened.floor(CANDLE) + CANDLE, last.floor(CANDLE), freq=CANDLE):
            n_asked = int(times.get((trade.pair, opened, candle), 0))
            counted[_why(n_asked, trade, candle, last, down, faults)] += 1
    return counted


def _why(
    n_asked: int,
    trade: Any,
    candle: pd.Timestamp,
    last: pd.Timestamp,
    down: list[tuple[pd.Timestamp, pd.Timestamp]],
    faults: pd.DataFrame,
) -> str:
    if n_asked == 1:
        return "once"
    was_down = _was_down(candle, down)
    if n_asked > 1:
        # Nor by the next bot: it finds on record what the one before it was told.
        return "TWICE"
    if was_down:
        return "no bot ran"
    if candle == last and not pd.isna(trade.close_date) and trade.exit_reason != "rl_exit":
        return "closed first"
    return "the exchange failed" if _failed(trade.pair, candle, faults) else "NOT"


# ---------------------------------------------------------------------- what is asked


def _decisions(asked: Counter[str]) -> Finding:
    text = ", ".join(f"{count} {why}" for why, count in asked.most_common())
    return Finding(
        "every candle of every open trade is decided once",
        asked["once"] > 0 and not asked["NOT"] and not asked["TWICE"],
        text,
    )


def _repairs(events: list[dict[str, Any]], stopped: list[pd.Timestamp]) -> Finding:
    counts = Counter(event["kind"] for event in events)
    text = (
        f"{counts['start']} starts, {counts['kill']} kills, {counts['stop']} stops, {counts['ended']} ended by itself; "
        f"{len(stopped)} traders stopped"
    )
    return Finding("no bot needed a repair by hand", not counts["ended"] and not stopped, text)


def overdue(
    trades: pd.DataFrame, down: list[tuple[pd.Timestamp, pd.Timestamp]], faults: pd.DataFrame, stop: datetime
) -> pd.DataFrame:
    """The trades that outlived their longest duration: they were still open when they had to be closed.

    A trade has to be closed in the candle in which its longest duration is over. A candle in which no bot ran, be it
    for a moment, or in which the exchange failed the trade's pair, is passed over: then it is the next one.
    """
    by = [_has_to_close_by(trade, down, faults) for trade in trades.itertuples()]
    closed = trades["close_date"].fillna(pd.Timestamp(stop))
    late: pd.DataFrame = trades[closed > pd.Series(by, index=trades.index, dtype=closed.dtype)]
    return late


def _has_to_close_by(trade: Any, down: list[tuple[pd.Timestamp, pd.Timestamp]], faults: pd.DataFrame) -> pd.Timestamp:
    """The end of the first candle in which a trade has to leave, and can."""
    candle = trade.open_date.floor(CANDLE) + LONGEST_CANDLES * CANDLE
    while _was_down(candle, down) or _failed(trade.pair, candle, faults):
        candle += CANDLE
    by: pd.Timestamp = candle + CANDLE
    return by


def _was_down(candle: pd.Timestamp, down: list[tuple[pd.Timestamp, pd.Timestamp]]) -> bool:
    """Whether a bot ended, or was down, within a candle."""
    return any(begin < candle + CANDLE and end >= candle for begin, end in down)


def _failed(pair: str, candle: pd.Timestamp, faults: pd.DataFrame) -> bool:
    """Whether the exchange kept a pair's last candle, or its prices, from the bot for the whole of a candle.

    A pass asks for the candle, while freqtrade still looks for it, and for the order book before it asks the policy. A
    fault of one pass, of another timeframe, or one that lets the answer through, explains nothing.
    """
    symbol = pair.split(":")[0].replace("/", "")
    near = faults[(faults["time"] >= candle) & (faults["time"] < candle + CANDLE)]
    near = near[near["target"].str.contains(symbol)]
    path = near["target"].str.split(r"[? ]", regex=True).str[0]
    of_candle = (path == "/fapi/v1/klines") & near["target"].str.contains(r"\b5m\b", regex=True)
    number = (near["time"] - candle) // PASS
    fails = near["kind"].isin(_REQUEST_FAILS)
    return bool(
        (near["kind"][of_candle] == "missing").any()
        or number[of_candle & (fails | near["kind"].isin(_COMES_LATER))].nunique() >= _LAST_POLL
        or number[fails & (of_candle | (path == "/fapi/v1/depth"))].nunique() == CANDLE // PASS
    )


def _stuck_trades(
    trades: pd.DataFrame, down: list[tuple[pd.Timestamp, pd.Timestamp]], plan: Plan, faults: pd.DataFrame
) -> Finding:
    late = overdue(trades, down, faults, plan.stop)
    lived = (trades["close_date"].fillna(pd.Timestamp(plan.stop)) - trades["open_date"]).max()
    text = f"{len(trades)} trades, the longest {lived.total_seconds() / 3600:.2f} h" if len(trades) else "no trades"
    if len(late):
        named = ", ".join(f"{trade.pair} of {trade.open_date:%Y-%m-%d %H:%M}" for trade in late.itertuples())
        text += f"; closed too late, or not at all: {named}"
    return Finding("no trade outlives its longest duration", len(trades) > 0 and not len(late), text)


def _trained(home: StageHome, pair: str, plan: Plan) -> Finding:
    [path] = (home.folder / "models").glob("*/pair_dictionary.json")
    at = json.loads(path.read_text(encoding="utf-8"))[pair]["trained_timestamp"]
    age_hours = (plan.stop.timestamp() - at) / 3600
    return Finding(f"{pair} is trained to the end", age_hours <= 3, f"its model is {age_hours:.1f} h old")


def _growth(journal: Journal, plan: Plan) -> Iterator[Finding]:
    quiet = quiet_samples(journal, plan)
    if len(quiet) < 5:
        yield Finding("memory and handles", False, f"{len(quiet)} samples in the quiet part")
        return
    hours = (quiet["time"] - quiet["time"].iloc[0]).dt.total_seconds() / 3600
    is_long = hours.iloc[-1] >= 60
    # A month's growth, in a run long enough to tell it.
    for name, unit, most in (
        ("rss", "MiB", 0.15 if is_long else 10.0),
        ("handles", "", 0.02 if is_long else 2.0),
        ("threads", "", 0.01 if is_long else 1.0),
    ):
        slope = float(np.polyfit(hours, quiet[name], 1)[0])
        text = (
            f"{slope:+.3f} {unit} an hour over {hours.iloc[-1]:.0f} h (at most {most}), "
            f"from {quiet[name].iloc[0]:.0f} to {quiet[name].iloc[-1]:.0f}"
        )
        yield Finding(f"{name} does not grow", slope <= most, text)


def _folders(samples: pd.DataFrame, n_pairs: int) -> Finding:
    most = MOST_FOLDERS * n_pairs
    text = (
        f"{samples['folders'].max():.0f} at the most, {samples['folders'].median():.0f} in the median (at most {most})"
    )
    return Finding("old policies are removed", bool(samples["folders"].between(0, most).all()), text)


def _history(samples: pd.DataFrame, n_pairs: int) -> Finding:
    # Before the first policy there is none.
    known = samples[samples["history"] > 0]
    if len(known) < 5:
        return Finding("the history of predictions", False, f"{len(known)} samples of it")
    hours = (known["time"] - known["time"].iloc[0]).dt.total_seconds() / 3600
    a_month = float(np.polyfit(hours, known["history"], 1)[0]) * 720 * 2**20 / 1e6 / n_pairs
    text = f"{a_month:.2f} MB a month and pair (at most {MOST_MB_A_MONTH})"
    return Finding("the history of predictions grows as documented", 0.1 < a_month <= MOST_MB_A_MONTH, text)


def _log(home: StageHome) -> Finding:
    said = home.log.read_text(encoding="utf-8", errors="replace") if home.log.exists() else ""
    # Whatever has no time of its own, such as a traceback, belongs to the line before it.
    hours, hour = Counter[str](), ""
    for line in said.splitlines():
        hour = found[0] if (found := _HOUR.match(line)) else hour
        hours[hour] += 1
    if not hours:
        return Finding("the log", False, "empty")
    mean, worst = hours.total() / len(hours), max(hours.values())
    text = f"{mean:.0f} lines an hour (at most {MOST_LINES}), {worst} in the worst (at most {MOST_LINES_IN_ONE_HOUR})"
    return Finding("the log is bounded", mean <= MOST_LINES and worst <= MOST_LINES_IN_ONE_HOUR, text)


def quiet_samples(journal: Journal, plan: Plan) -> pd.DataFrame:
    """Samples of the last bot, which nothing ended, once it is warm."""
    samples = journal.samples
    if not len(samples):
        return samples
    last = samples[(samples["pid"] == samples["pid"].iloc[-1]) & (samples["time"] >= pd.Timestamp(plan.quiet))]
    begin, end = last["time"].min(), last["time"].max()
    return last[last["time"] >= begin + (LONG_WARM_UP if end - begin >= 2 * LONG_WARM_UP else WARM_UP)]
