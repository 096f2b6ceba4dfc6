"""A trade's way from the question to the policy's decision is short: the functions it passes are counted."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from freqai_runs import FreqtradeBacktest, Watch
from live_bot import LiveBot

import mtfscalper
from mtfscalper.freqai.policy_store import _PairPolicies
from mtfscalper.freqai.trade_decisions import TradeDecisions

ROOT = Path(mtfscalper.__file__).parent
MOST = 12
_NOT_COUNTED = ("candle_clock.py", "decision_record.py", "policy_exits.py", "artefacts.py", "stray_files.py")
# Asked for the record, which a bot writes before an answer is acted on; the rule by which it is a function of its own.
_OF_RECORD = ("TradeDecisions.leaves", "leaves", "TradeDecisions._note")


def functions_passed(call: Callable[[], Any]) -> tuple[Any, set[str]]:
    """A call's result and the package's functions that it enters.

    Not counted is the arithmetic of rules and observations (``trading``), which environments call too, nor what Python
    makes of comprehensions and lambdas: they lie in a function that is counted. Nor are the clock, which is arithmetic
    too, and the record of decisions, with the writing of its files.
    """
    seen: set[str] = set()

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event != "call" or not file.is_relative_to(ROOT) or frame.f_code.co_name.startswith("<"):
            return
        if (
            file.parent.name != "trading"
            and file.name not in _NOT_COUNTED
            and frame.f_code.co_qualname not in _OF_RECORD
        ):
            seen.add(f"{file.relative_to(ROOT)}: {frame.f_code.co_qualname}")

    sys.setprofile(profile)
    try:
        return call(), seen
    finally:
        sys.setprofile(None)


def test_in_a_backtest_a_question_passes_twelve_functions_at_most(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watch(monkeypatch, leaves=0.05)
    run = FreqtradeBacktest(tmp_path, market, freqai={"rl_config": {"decision_mode": "exact"}})
    run.run()
    loaded: list[int] = []
    real_load, real_decide = _PairPolicies.load, TradeDecisions.decide

    def load(self: _PairPolicies, at: int) -> Any:
        loaded.append(at)
        return real_load(self, at)

    passed: dict[str, list[set[str]]] = {"first": [], "following": [], "policy loaded": []}
    asked: set[Any] = set()

    def decide(self: TradeDecisions, trade: Any, *arguments: Any) -> Any:
        n_loaded = len(loaded)
        answer, functions = functions_passed(lambda: real_decide(self, trade, *arguments))
        if any("ExitPolicy.decide" in name for name in functions):
            kind = "policy loaded" if len(loaded) > n_loaded else "following" if trade.id in asked else "first"
            passed[kind].append(functions)
            asked.add(trade.id)
        return answer

    monkeypatch.setattr(_PairPolicies, "load", load)
    monkeypatch.setattr(TradeDecisions, "decide", decide)
    run.trades()
    # What a policy is loaded with is read once a period, and is no part of a trade's way.
    assert len(passed["policy loaded"]) == len(loaded) == 3
    for kind, at_least in (("first", 5), ("following", 100)):
        assert len(passed[kind]) >= at_least
        longest = max(passed[kind], key=len)
        assert len(longest) <= MOST, f"{kind}: {sorted(longest)}"
    assert any("_prepare" in name for functions in passed["first"] for name in functions)


def test_a_bots_question_passes_twelve_functions_at_most(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watch(monkeypatch)
    bot = LiveBot(tmp_path, market, monkeypatch, freqai={"rl_config": {"decision_mode": "exact"}})
    bot.analyse()
    bot.train()
    bot.next_candle()
    bot.analyse()
    trade = bot.open_trade(candles_ago=1)
    decisions = bot.strategy.trade_decisions
    assert decisions is not None
    # The first question also notes, once, which policy decides about the trade.
    decisions.decide(trade, bot.now, 1.0)
    for _ in range(3):
        bot.next_candle()
        bot.analyse()
        decisions = bot.strategy.trade_decisions
        assert decisions is not None
        _, functions = functions_passed(lambda decisions=decisions: decisions.decide(trade, bot.now, 1.0))
        assert any("ExitPolicy.decide" in name for name in functions)
        assert len(functions) <= MOST, sorted(functions)
