"""A short soak: what ``make soak`` does for weeks, for as long as ten minutes allow."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from soak.checks import (
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
        # Nor are the exchange's faults before, or those of another pair.
        ("10:05:01", [], ["09:00 BTCUSDT", "09:59 BTCUSDT", "10:01 ETHUSDT"], True),
        ("10:09:00", [], ["10:01 BTCUSDT"], False),
        ("10:14:00", [("10:04", "10:04:30")], ["10:07 BTCUSDT"], False),
        ("10:15:01", [("10:04", "10:04:30")], ["10:07 BTCUSDT"], True),
    ],
)
def test_a_trade_has_to_leave_in_the_first_candle_after_its_longest_duration_in_which_it_can(
    closed: str | None, down: list[tuple[str, str]], failed: list[str], is_late: bool
) -> None:
    trades = pd.DataFrame(
        {"pair": ["BTC/USDT:USDT"], "open_date": [at("02:03")], "close_date": [at(closed) if closed else pd.NaT]}
    )
    trades["close_date"] = pd.to_datetime(trades["close_date"], utc=True)
    faults = pd.DataFrame([fault.split() for fault in failed], columns=["time", "target"]).assign(kind="dropped")
    faults["time"] = pd.to_datetime("2024-10-01 " + faults["time"].astype(str), utc=True)
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
