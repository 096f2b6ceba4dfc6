"""What a bot would have entered at candles that it missed: the audit asks the policy that the bot had then."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from freqai_runs import PAIR, ROOT, STRATEGY, Watch
from freqtrade.exchange import Exchange
from freqtrade.persistence import Trade
from live_bot import LiveBot
from shipped import STRATEGIES

from mtfscalper.freqai.bot_record import BotRecord
from mtfscalper.freqai.columns import ACTION_COLUMN
from mtfscalper.freqai.traded_strategy import TradedStrategy
from mtfscalper.policy.recurrent import RecurrentPolicyError
from mtfscalper.reporting.audit.audit import Audit, audit_of
from mtfscalper.reporting.audit.bot import read_bot
from mtfscalper.reporting.audit.missed import Missed, missed_signals
from mtfscalper.reporting.audit.own_signals import own_signals
from mtfscalper.reporting.offline_exchange import config_of_run, offline_exchange
from mtfscalper.reporting.origin import moment
from mtfscalper.reporting.run_result import Asked, RunResult
from mtfscalper.reporting.without_freqai import NotRun
from mtfscalper.trading.actions import Action

N_PASSES, MISSED = 14, slice(3, 11)
TF = 300_000
ENTERS = {float(Action.LONG_ENTER): "long", float(Action.SHORT_ENTER): "short"}
NAME = "entry at a missed candle"


class Home:
    """What a bot that never traded has left, to be audited after changes."""

    def __init__(self, folder: Path, market: Path) -> None:
        self.folder, self.market = folder, market

    @property
    def journal(self) -> Path:
        [path] = (self.folder / "decisions" / "test").glob("*.jsonl")
        return path

    @property
    def passes(self) -> list[dict[str, Any]]:
        lines = map(json.loads, self.journal.read_text().splitlines())
        return [line for line in lines if line["kind"] == "pass" and line["columns"]["do_predict"] == 1]

    def change(self, changed: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
        """Change the passes of the missed candles, or leave them out."""
        rows = {line["row_ms"] for line in self.passes[MISSED]}
        lines = map(json.loads, self.journal.read_text().splitlines())
        kept = (changed(line) if line.get("row_ms") in rows else line for line in lines)
        self.journal.write_text("".join(json.dumps(line) + "\n" for line in kept if line is not None))

    def asked(self, **overlay: Any) -> Asked:
        more = self.folder.parent / f"{self.folder.name}.json"
        more.write_text(json.dumps(overlay))
        configs = (ROOT / "configs" / "config_rl_hybrid.json", self.folder / "overlay.json", more)
        database = self.folder / "bot.sqlite"
        return Asked(database, STRATEGY, self.folder, configs, self.market, STRATEGIES)

    def audit(self) -> Audit:
        return audit_of(self.asked())

    def run(self, **overlay: Any) -> tuple[RunResult, Exchange]:
        result, _ = read_bot(self.asked(**overlay))
        return result, offline_exchange(config_of_run(result), result.pairs)

    def missed(self, **overlay: Any) -> Missed:
        result, exchange = self.run(**overlay)
        return missed_signals(result, BotRecord.from_config(result.config), exchange)

    def files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def bots_home(tmp_path_factory: pytest.TempPathFactory, market: Path) -> Home:
    folder = tmp_path_factory.mktemp("bot")
    with pytest.MonkeyPatch.context() as patch:
        Watch(patch, "random", leaves=0.6)
        bot = LiveBot(folder, market, patch, freqai={"rl_config": {"entry_mode": "agent", "decision_mode": "exact"}})
        bot.analyse()
        bot.train()
        for _ in range(N_PASSES):
            bot.analyse()
            bot.next_candle()
        with sqlite3.connect(folder / "bot.sqlite") as target:
            Trade.session.get_bind().raw_connection().driver_connection.backup(target)  # type: ignore[union-attr]
        bot.model.shutdown()
    return Home(folder, market)


@pytest.fixture
def home(bots_home: Home, tmp_path: Path) -> Home:
    shutil.copytree(bots_home.folder, tmp_path, dirs_exist_ok=True)
    return Home(tmp_path, bots_home.market)


def counts(audit: Audit) -> dict[str, int]:
    return {reason.name: reason.count for reason in audit.reasons}


def asked_for(passes: list[dict[str, Any]]) -> dict[int, str]:
    """By candle of the entry, what the bot's policy asked for."""
    actions = {line["row_ms"] + TF: line["columns"][ACTION_COLUMN] for line in passes}
    return {candle: ENTERS[action] for candle, action in actions.items() if action in ENTERS}


def test_what_a_policy_that_remembers_would_enter_is_not_known(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RecurrentPolicyError

    monkeypatch.setattr("mtfscalper.freqai.kept_policies.decider_for", refuse)
    home.change(lambda _: None)
    missed = home.missed()
    assert missed.signals[PAIR].sides == {}
    [note] = [note for note in missed.notes if "is not known" in note]
    assert "is not known: a recurrent policy decides by what it remembers of the candles before" in note


def test_a_kept_policy_says_what_is_entered_at_missed_candles(home: Home) -> None:
    assert NAME not in counts(home.audit())
    expected = asked_for(home.passes[MISSED])
    assert len(expected) >= 3
    home.change(lambda _: None)
    before = home.files()
    assert home.missed().signals[PAIR].sides == expected
    audit = home.audit()
    first = min(expected)
    [found] = [reason for reason in audit.reasons if reason.name == NAME]
    assert f"{PAIR} {expected[first]} of {moment(first)}: expected {expected[first]} entered" in found.first
    assert "made no pass in time" in found.first
    listed = [one for one in audit.as_json()["missing"] if one["reason"] == NAME]
    assert listed[0] == {"pair": PAIR, "side": expected[first], "candle": moment(first), "reason": NAME}
    assert len(listed) == found.count
    assert "is not known" not in " ".join(audit.notes)
    # Nothing was written, into the bot's folders or elsewhere.
    assert home.files() == before


def test_where_the_policy_is_gone_the_number_of_candles_is_told(home: Home) -> None:
    home.change(lambda _: None)
    for folder in home.folder.rglob("sub-train-*"):
        shutil.rmtree(folder)
    audit = home.audit()
    assert NAME not in counts(audit)
    said = "what a backtest enters at 8 of them is not known: their policy is no longer kept, or can no longer decide"
    assert said in audit.notes


def test_of_a_pass_that_came_too_late_the_record_says_what_it_decided(home: Home) -> None:
    expected = asked_for(home.passes[MISSED])
    home.change(lambda line: {**line, "at_ms": line["row_ms"] + 2 * TF})
    for folder in home.folder.rglob("sub-train-*"):
        shutil.rmtree(folder)
    missed = home.missed()
    assert missed.signals[PAIR].sides == expected
    assert "is not known" not in " ".join(missed.notes)
    assert NAME in counts(home.audit())


def test_an_expired_policy_is_not_asked(home: Home) -> None:
    home.change(lambda _: None)
    # It was trained as the first pass began, and the first missed candle opened a quarter of an hour later.
    missed = home.missed(freqai={"expiration_hours": 0.2})
    assert missed.signals[PAIR].sides == {}
    assert missed.notes[1] == "what a backtest enters at 8 of them is not known: their policy had expired by then"


def test_classic_signals_enter_without_a_policy(home: Home) -> None:
    for folder in home.folder.rglob("sub-train-*"):
        shutil.rmtree(folder)
    first, last = home.passes[0], home.passes[-1]
    stop = {**last, "row_ms": last["row_ms"] + 300 * TF, "at_ms": last["at_ms"] + 300 * TF}
    with home.journal.open("a") as journal:
        journal.write(json.dumps(stop) + "\n")
    classic = {"freqai": {"rl_config": {"entry_mode": "classic"}}}
    missed = home.missed(**classic)
    result, exchange = home.run(**classic)
    # The strategy's own columns without FreqAI are those signals.
    timerange = {"timerange": f"{result.first_ms // 1000}-{result.last_ms // 1000}", "freqaimodel": None}
    own = own_signals(result._replace(stats={**result.stats, **timerange}), exchange)
    assert not isinstance(own, NotRun)
    missing = missed.signals[PAIR].missed
    assert len(missing) == 299
    expected = {candle: side for candle, side in own.entries[PAIR].sides.items() if candle in missing}
    assert len(expected) >= 3
    assert missed.signals[PAIR].sides == expected
    assert first["row_ms"] < min(expected)
    assert len(missed.notes) == 1


def test_what_the_strategy_raises_is_told_with_the_number_of_candles(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.change(lambda _: None)

    def refuse(*_: Any) -> None:
        raise KeyError("no such column")

    monkeypatch.setattr(TradedStrategy, "compute", refuse)
    missed = home.missed()
    assert missed.signals[PAIR].sides == {}
    assert missed.notes[1] == "what a backtest enters at 8 of them is not known: KeyError: 'no such column'"
