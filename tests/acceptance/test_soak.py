"""A short soak: what ``make soak`` does for weeks, for as long as ten minutes allow."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from soak.checks import (
    MOST_LINES,
    MOST_LINES_IN_ONE_HOUR,
    _folders,
    _history,
    _log,
    asked_candles,
    down_times,
    faults_of,
    findings,
    lost_to,
    overdue,
    stopped_traders,
    trades_of,
)
from soak.plan import drawn
from soak.run import PAIRS, START, Soak

from mtfscalper.offline.stage import StageHome

HOURS, SEED = 20.0, 3

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(os.name == "nt", reason="the bot is stopped by the signal of Ctrl-C, which Windows cannot send"),
]


@pytest.fixture(scope="module")
def soak(tmp_path_factory: pytest.TempPathFactory) -> Soak:
    soak = Soak(tmp_path_factory.mktemp("soak"), drawn(START, HOURS, SEED), SEED)
    soak.run()
    return soak


def test_a_bot_lives_through_faults_and_kills_and_decides_every_candle_of_its_trades(soak: Soak) -> None:
    found = findings(soak.home, soak.journal, drawn(START, HOURS, SEED), PAIRS)
    print()
    for finding in found:
        print(f"{'ok  ' if finding.is_good else 'BAD '} {finding.name}: {finding.text}")
    assert all(finding.is_good for finding in found)
    events = [event["kind"] for event in soak.journal.events]
    assert events.count("kill") >= 1
    assert len(faults_of(soak.home)["kind"].unique()) >= 5


def test_a_decision_that_is_missing_or_made_twice_is_seen(soak: Soak) -> None:
    trades, decisions = trades_of(soak.home), soak.journal.gather(soak.home.decisions)
    rest = (down_times(soak.journal.events), faults_of(soak.home).head(0), drawn(START, HOURS, SEED).stop)
    before = asked_candles(trades, decisions, *rest)
    asked = asked_candles(trades, decisions.iloc[:-20], *rest)
    assert asked["NOT"] + asked["no bot ran"] > before["NOT"] + before["no bot ran"]
    asked = asked_candles(trades, pd.concat([decisions, decisions]), *rest)
    assert asked["TWICE"] > 0


def test_a_trader_that_freqtrade_stops_is_seen_and_counts_against_the_fault_before_it(tmp_path: Path) -> None:
    home = StageHome(tmp_path)
    home.log.parent.mkdir(parents=True)
    home.log.write_text(
        "2024-10-09 15:24:01,000 - freqtrade.worker - ERROR - OperationalException. Stopping trader ...\n"
        "2024-10-09 15:25:01,000 - freqtrade.worker - ERROR - something else\n"
    )
    moments = ["2024-10-09T15:23:01", "2024-10-09T15:24:01", "2024-10-09T15:26:01"]
    faults = pd.DataFrame(
        {"time": pd.to_datetime(moments, utc=True), "kind": ["dropped", "empty", "late"], "target": "exchangeInfo"}
    )
    [stopped] = stopped_traders(home)
    assert stopped == faults["time"].iloc[1]
    assert lost_to(faults, [stopped]) == {"empty": 1}


def at(clock: str) -> pd.Timestamp:
    return pd.Timestamp(f"2024-10-01 {clock}", tz="UTC")


def faults_at(served: list[tuple[str, str, str]]) -> pd.DataFrame:
    """Faults as :func:`soak.checks.faults_of` reads them, of a time of day, a kind and a target each."""
    faults = pd.DataFrame(served, columns=["time", "kind", "target"], dtype=str)
    return (
        faults.assign(time=[at(clock) for clock in faults["time"]])
        if served
        else faults.assign(time=pd.to_datetime([], utc=True))
    )


KLINES = "/fapi/v1/klines?[('interval', '5m'), ('limit', '499'), ('symbol', 'BTCUSDT')]"
DEPTH = "/fapi/v1/depth?[('limit', '5'), ('symbol', 'BTCUSDT')]"
CANDLE = "/fapi/v1/klines BTCUSDT 5m 2024-10-01 09:55:00+00:00"
EACH_PASS = [f"10:0{minute}:01" for minute in range(5)]


@pytest.mark.parametrize(
    ("served", "is_excused"),
    [
        ([], False),
        # What keeps the candle, or the prices, from every pass.
        ([(clock, "http_503", DEPTH) for clock in EACH_PASS], True),
        ([(clock, "http_503", DEPTH) for clock in EACH_PASS[1:]], False),
        ([("10:00:01", "half_json", KLINES), ("10:01:01", "half_json", KLINES)], True),
        ([("10:00:01", "late", CANDLE), ("10:01:01", "clock_skew", KLINES)], True),
        ([("10:00:01", "spike", CANDLE), ("10:01:01", "empty", KLINES)], True),
        ([("10:00:01", "missing", CANDLE)], True),
        # One pass, in which freqtrade tries four times; and the next one has it.
        ([("10:00:01", "dropped", KLINES)] * 4, False),
        ([("10:00:01", "late", CANDLE)], False),
        ([("10:00:01", "clock_skew", KLINES)], False),
        # An answer all the same.
        ([(clock, "latency", KLINES) for clock in EACH_PASS], False),
        ([("10:00:01", "revised", CANDLE), ("10:01:01", "revised", CANDLE)], False),
        # Other candles, another pair, another time.
        ([(clock, "http_503", KLINES.replace("5m", "15m")) for clock in EACH_PASS], False),
        ([(clock, "http_503", KLINES.replace("klines", "markPriceKlines")) for clock in EACH_PASS], False),
        ([("10:00:01", "missing", CANDLE.replace("5m", "1h"))], False),
        ([("10:00:01", "missing", CANDLE.replace("BTC", "ETH"))], False),
        ([("09:58:01", "empty", KLINES), ("10:00:01", "empty", KLINES), ("10:05:01", "empty", KLINES)], False),
    ],
)
def test_only_what_kept_a_candle_from_every_pass_explains_that_it_was_not_decided(
    served: list[tuple[str, str, str]], is_excused: bool
) -> None:
    trades = pd.DataFrame(
        {
            "pair": ["BTC/USDT:USDT"],
            "open_date": [at("09:52:01")],
            "close_date": [at("10:06:01")],
            "exit_reason": ["rl_exit"],
        }
    )
    asked = [at("09:55"), at("10:05")]
    decisions = pd.DataFrame({"pair": "BTC/USDT:USDT", "opened": at("09:52:01"), "candle": asked})
    counted = asked_candles(trades, decisions, [], faults_at(served), at("12:00").to_pydatetime())
    assert counted == {"once": 2, "the exchange failed" if is_excused else "NOT": 1}


@pytest.mark.parametrize("down", [[], [("10:01", "10:02")]])
def test_a_candle_that_the_next_bot_decides_again_is_decided_twice(down: list[tuple[str, str]]) -> None:
    trades = pd.DataFrame({"pair": ["BTC/USDT:USDT"], "open_date": [at("09:56:01")], "exit_reason": ["rl_exit"]})
    trades["close_date"] = at("10:03:01")
    decisions = pd.DataFrame({"pair": "BTC/USDT:USDT", "opened": at("09:56:01"), "candle": [at("10:00")] * 2})
    spans = [(at(begin), at(end)) for begin, end in down]
    assert asked_candles(trades, decisions, spans, faults_at([]), at("12:00").to_pydatetime()) == {"TWICE": 1}


def samples_of(folders: int, mb_an_hour: float) -> pd.DataFrame:
    times = pd.date_range(at("00:00"), periods=40, freq="30min")
    history = [0.0, 0.0, *(0.2 + mb_an_hour * 1e6 / 2**20 * number / 2 for number in range(2, 40))]
    return pd.DataFrame({"time": times, "folders": [0, *[4] * 38, folders], "history": history})


def test_policies_that_stay_and_a_history_that_grows_faster_than_documented_are_seen() -> None:
    # Two pairs, 1.2 MB a month and pair.
    good = samples_of(5, 2 * 1.2 / 720)
    assert _folders(good, 2).is_good
    assert _history(good, 2).is_good
    assert _history(good, 2).text.startswith("1.20 MB")
    assert not _folders(samples_of(7, 0.003), 2).is_good
    assert not _history(samples_of(4, 2 * 1.6 / 720), 2).is_good
    # Nor is one that nobody writes any more as it should be.
    assert not _history(samples_of(4, 0.0), 2).is_good


@pytest.mark.parametrize(
    ("an_hour", "in_one_hour", "is_good"),
    [
        (MOST_LINES - 1, MOST_LINES - 1, True),
        (MOST_LINES + 1, MOST_LINES + 1, False),
        (10, MOST_LINES_IN_ONE_HOUR + 1, False),
        (10, MOST_LINES_IN_ONE_HOUR, True),
    ],
)
def test_a_log_of_too_many_lines_an_hour_is_seen(tmp_path: Path, an_hour: int, in_one_hour: int, is_good: bool) -> None:
    home = StageHome(tmp_path)
    home.log.parent.mkdir(parents=True)
    lines = []
    for hour in range(20):
        n_lines = in_one_hour if hour == 7 else an_hour
        lines += [f"2024-10-01 {hour:02}:00:01,000 - freqtrade - INFO - words", *["  of a traceback"] * (n_lines - 1)]
    home.log.write_text("\n".join(lines))
    assert _log(home).is_good == is_good


@pytest.mark.parametrize(
    ("closed", "down", "failed", "is_late"),
    [
        # Opened at 02:03, it is to leave from 10:00 on.
        ("10:00:01", [], [], False),
        ("10:04:59", [], [], False),
        ("10:05:01", [], [], True),
        (None, [], [], True),
        # Hours without a bot before it had to leave are no excuse.
        ("10:05:01", [("03:00", "09:59")], [], True),
        # It leaves in the first candle in which a bot runs from its beginning to its end.
        ("12:09:00", [("09:58", "12:03")], [], False),
        ("12:10:01", [("09:58", "12:03")], [], True),
        ("10:09:00", [("10:04", "10:04:30")], [], False),
        # Nor are the exchange's faults before.
        ("10:05:01", [], ["09:55", "09:59"], True),
        ("10:09:00", [], ["10:00", "10:01"], False),
        ("10:14:00", [("10:04", "10:04:30")], ["10:05", "10:06"], False),
        ("10:15:01", [("10:04", "10:04:30")], ["10:05", "10:06"], True),
    ],
)
def test_a_trade_has_to_leave_in_the_first_candle_after_its_longest_duration_in_which_it_can(
    closed: str | None, down: list[tuple[str, str]], failed: list[str], is_late: bool
) -> None:
    trades = pd.DataFrame(
        {"pair": ["BTC/USDT:USDT"], "open_date": [at("02:03")], "close_date": [at(closed) if closed else pd.NaT]}
    )
    trades["close_date"] = pd.to_datetime(trades["close_date"], utc=True)
    faults = faults_at([(clock, "dropped", KLINES) for clock in failed])
    spans = [(at(begin), at(end)) for begin, end in down]
    assert len(overdue(trades, spans, faults, at("20:00").to_pydatetime())) == is_late


def test_a_trade_that_had_not_to_leave_before_the_end_is_not_late() -> None:
    trades = pd.DataFrame({"pair": ["BTC/USDT:USDT"], "open_date": [at("02:03")]})
    trades["close_date"] = pd.to_datetime([pd.NaT], utc=True)
    faults = pd.DataFrame({"time": pd.to_datetime([], utc=True), "kind": [], "target": pd.Series([], dtype=str)})
    assert len(overdue(trades, [], faults, at("10:04").to_pydatetime())) == 0
    assert len(overdue(trades, [], faults, at("10:06").to_pydatetime())) == 1


def test_a_plan_repeats_itself() -> None:
    plan = drawn(START, 672, 1)
    assert plan == drawn(START, 672, 1) != drawn(START, 672, 2)
    assert len(plan.ends) > 40
    assert all(end.at < plan.quiet for end in plan.ends)
