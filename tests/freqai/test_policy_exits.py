"""The mixin: whatever a strategy defines, the policy is asked first and the rules of its training hold."""

from __future__ import annotations

import copy
import functools
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.persistence import FtNoDBContext, LocalTrade, Trade
from freqtrade.persistence.custom_data import CustomDataWrapper
from freqtrade.resolvers import StrategyResolver
from freqtrade.strategy import IStrategy
from freqtrade.strategy.strategy_wrapper import strategy_safe_wrapper

from mtfscalper.freqai.trade_decisions import DecisionLostError, check_asks_for_decisions, trade_decisions_of
from mtfscalper.strategy import PROBABILITY_KEY, ExitDecision, PolicyExits, TradeDecisions

ROOT = Path(__file__).parents[2]
PAIR = "BTC/USDT:USDT"
# A Monday, on which a week's candle opens too.
OPENED = datetime(2024, 9, 2, tzinfo=UTC)
LONGEST = 6
LEAVES, HOLDS = (ExitDecision(p > 0.5, p, 0.01, 0.02, held_candles=2) for p in (0.83, 0.17))


@pytest.fixture(autouse=True)
def in_backtest() -> Iterator[None]:
    with FtNoDBContext("5m"):
        Trade.reset_trades()
        CustomDataWrapper.reset_custom_data()
        yield
        Trade.reset_trades()
        CustomDataWrapper.reset_custom_data()


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / "configs" / "config_rl_hybrid.json").read_text())
    loaded["freqai"]["rl_config"] |= {"decision_mode": "exact", "max_trade_duration_candles": LONGEST}
    return loaded | {"user_data_dir": tmp_path, "runmode": RunMode.BACKTEST, "timeframe": "5m"}


class Plain(IStrategy):
    """What every strategy has, and nothing of ours."""

    timeframe = "5m"
    stoploss = -0.1

    def populate_indicators(self, dataframe: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
        return dataframe


class Without(PolicyExits, Plain):
    """No callback of its own."""


class TakesProfit(PolicyExits, Plain):
    """Its own exit; asks nobody else."""

    def custom_exit(
        self, pair: str, trade: Trade, current_time: datetime, current_rate: float, current_profit: float, **_: Any
    ) -> str | None:
        return "profit" if current_profit > 0.05 else None


class CallsSuper(PolicyExits, Plain):
    """Its own exit comes after what it inherits."""

    def custom_exit(self, pair: str, trade: Trade, *arguments: Any, **keywords: Any) -> Any:
        inherited = super().custom_exit(pair, trade, *arguments, **keywords)
        assert inherited is None
        return "own" if keywords["current_profit"] > 0.05 else None


class Grandchild(TakesProfit):
    """Another exit before its parent's, with ``super()``."""

    def custom_exit(self, pair: str, trade: Trade, current_time: datetime, *arguments: Any, **keywords: Any) -> Any:
        if keywords["current_profit"] < -0.05:
            return "loss"
        return super().custom_exit(pair, trade, current_time, *arguments, **keywords)


class Inherits(Grandchild):
    """A level that defines nothing."""


class Raises(PolicyExits, Plain):
    """Fails whenever it is asked."""

    def custom_exit(self, **_: Any) -> str | None:
        raise KeyError("own")


class OtherBase:
    """Callbacks of somebody who knows nothing of the mixin."""

    def custom_exit(self, current_profit: float, **_: Any) -> str | None:
        return "profit" if current_profit > 0.05 else None

    def confirm_trade_entry(self, **_: Any) -> bool:
        return False


class BesideAndBefore(OtherBase, PolicyExits, Plain):
    """The other base's callbacks would hide the mixin's."""


class BesideAndAfter(PolicyExits, OtherBase, Plain):
    """They stand behind the mixin's."""


class Existing(Plain):
    """A strategy that was there before."""

    def custom_exit(self, **keywords: Any) -> str | None:
        return "profit" if keywords["current_profit"] > 0.05 else None


class AddedBefore(PolicyExits, Existing):
    """The mixin before a strategy that was there before."""


class AddedAfter(Existing, PolicyExits):
    """And after it."""


class WrongOrder(IStrategy, PolicyExits):
    """An order that Python would refuse."""

    timeframe = "5m"
    stoploss = -0.1
    populate_indicators = Plain.populate_indicators
    custom_exit = Existing.custom_exit


class Static(PolicyExits, Plain):
    """A callback that is no ordinary method."""

    @staticmethod
    def custom_exit(**keywords: Any) -> str | None:  # type: ignore[override]
        return "profit" if keywords["current_profit"] > 0.05 else None


class Dressed(PolicyExits, Plain):
    """A callback that took over the mixin's attributes."""

    @functools.wraps(PolicyExits.custom_exit)
    def custom_exit(self, **keywords: Any) -> str | None:
        return "profit" if keywords["current_profit"] > 0.05 else None


WITH_PROFIT = [
    *(TakesProfit, Grandchild, Inherits, BesideAndBefore, BesideAndAfter),
    *(AddedBefore, AddedAfter, WrongOrder, Static, Dressed),
]
EVERY = [Without, CallsSuper, Raises, *WITH_PROFIT]


def made(strategy: type[IStrategy], config: dict[str, Any], decision: ExitDecision | None = None) -> Any:
    """A strategy whose policy always gives the same answer."""
    instance = strategy(config)
    assert isinstance(instance, PolicyExits)
    if instance.trade_decisions is not None:
        answer(instance, decision)
    return instance


def answer(strategy: Any, decision: ExitDecision | Exception | None) -> list[Any]:
    """Let the policy give an answer from now on; fills with the questions."""
    asked: list[Any] = []

    def decide(*arguments: Any) -> ExitDecision | None:
        asked.append(arguments)
        if isinstance(decision, Exception):
            raise decision
        return decision

    strategy.trade_decisions.decide = decide
    return asked


def a_trade(opened: datetime = OPENED, number: int = 1, **values: Any) -> LocalTrade:
    of_trade = {"pair": PAIR, "open_date": opened, "open_rate": 100.0, "amount": 0.1, "stake_amount": 10.0}
    of_trade |= {"fee_open": 0.0005, "fee_close": 0.0005, "exchange": "binance", "leverage": 1.0, "id": number}
    return LocalTrade(**(of_trade | values))


def left(strategy: Any, now: datetime = OPENED + timedelta(minutes=10), profit: float = 0.0, **trade: Any) -> Any:
    """Why a trade is left, as freqtrade asks: by keywords, and an error holds."""
    return strategy_safe_wrapper(strategy.custom_exit, default_retval=False)(
        pair=PAIR, trade=a_trade(**trade), current_time=now, current_rate=100.0, current_profit=profit
    )


def late(minutes: int = 0) -> datetime:
    return OPENED + timedelta(minutes=5 * LONGEST + minutes)


class Holds(PolicyExits, Plain):
    """Holds whom to ask in every mode."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.trade_decisions = TradeDecisions(config, self)


# ---------------------------------------------------------------------- who is asked


@pytest.mark.parametrize("strategy", EVERY)
def test_the_policy_is_asked_first_and_once(config: dict[str, Any], strategy: type[IStrategy]) -> None:
    instance = made(strategy, config)
    asked = answer(instance, LEAVES)
    assert left(instance, profit=0.1) == "rl_exit"
    assert len(asked) == 1
    assert CustomDataWrapper.get_custom_data(trade_id=1, key=PROBABILITY_KEY)[0].value == 0.83
    asked = answer(instance, HOLDS)
    left(instance, profit=0.1)
    assert len(asked) == 1


@pytest.mark.parametrize("strategy", WITH_PROFIT)
def test_then_the_strategys_own_exit_is_asked(config: dict[str, Any], strategy: type[IStrategy]) -> None:
    for decision in (HOLDS, None):
        instance = made(strategy, config, decision)
        assert left(instance, profit=0.1) == "profit"
        assert not left(instance, profit=0.01)


def test_a_class_may_ask_what_it_inherits(config: dict[str, Any]) -> None:
    instance = made(CallsSuper, config, HOLDS)
    assert left(instance, profit=0.1) == "own"
    # What it inherits is no second policy and no second rule: the assertion in it would fail.
    assert left(instance, late(), profit=0.01) == "max_duration"
    for strategy in (Grandchild, Inherits):
        assert left(made(strategy, config, HOLDS), profit=-0.1) == "loss"


def test_each_level_is_wrapped_once() -> None:
    assert vars(Grandchild)["custom_exit"].__wrapped__.__qualname__ == "Grandchild.custom_exit"
    assert not hasattr(vars(Grandchild)["custom_exit"].__wrapped__, "__wrapped__")
    assert "custom_exit" not in vars(Inherits)
    assert "confirm_trade_entry" not in vars(Grandchild)


def test_a_strategy_varies_when_the_policy_leaves_and_sees_what_it_said(config: dict[str, Any]) -> None:
    class Careful(PolicyExits, Plain):
        def policy_leaves(self, decision: ExitDecision) -> bool:
            return decision.probability >= 0.9

        def custom_exit(self, **_: Any) -> str | None:
            return f"saw {self.policy_decision.probability}" if self.policy_decision else "saw nothing"

    instance = made(Careful, config, LEAVES)
    assert left(instance) == "saw 0.83"
    assert instance.policy_decision is None
    answer(instance, LEAVES._replace(probability=0.9))
    assert left(instance) == "rl_exit"
    answer(instance, None)
    assert left(instance) == "saw nothing"


@pytest.mark.parametrize("strategy", [Without, TakesProfit, Holds])
def test_in_replay_mode_and_without_freqai_nobody_is_asked_and_the_rules_hold(
    config: dict[str, Any], strategy: type[IStrategy]
) -> None:
    config["freqai"]["rl_config"]["decision_mode"] = "replay"
    replayed = made(strategy, config)
    config = copy.deepcopy(config)
    config["freqai"]["enabled"] = False
    for instance in (replayed, made(strategy, config)):
        assert instance.trade_decisions is None
        assert (trade_decisions_of(instance) == []) == (strategy is not Holds)
        assert not left(instance)
        assert left(instance, late()) == "max_duration"
        assert confirmed(instance, OPENED)
        closed_trade(OPENED)
        assert not confirmed(instance, OPENED)
        Trade.reset_trades()
    assert not (config["user_data_dir"] / "decisions").exists()


# ---------------------------------------------------------------------- the longest duration


@pytest.mark.parametrize("strategy", EVERY)
def test_the_longest_duration_ends_a_trade_whoever_else_is_asked(
    config: dict[str, Any], strategy: type[IStrategy]
) -> None:
    for decision in (HOLDS, None):
        instance = made(strategy, config, decision)
        assert not left(instance, late(-5))
        assert left(instance, late()) == "max_duration"
        assert left(instance, late(720)) == "max_duration"


@pytest.mark.parametrize(
    ("timeframe", "last"),
    [
        ("1m", "2024-09-02T00:06"),
        ("5m", "2024-09-02T00:30"),
        ("1h", "2024-09-02T06:00"),
        ("1d", "2024-09-08T00:00"),
        ("1w", "2024-10-14T00:00"),
    ],
)
def test_the_longest_duration_counts_candles_of_any_timeframe(
    config: dict[str, Any], timeframe: str, last: str
) -> None:
    instance = made(Without, config | {"timeframe": timeframe}, HOLDS)
    instance.timeframe = timeframe
    last_open = datetime.fromisoformat(last).replace(tzinfo=UTC)
    # A bot's trade is filled within its candle, and asked about within another.
    for filled in (OPENED, OPENED + timedelta(seconds=40)):
        assert not left(instance, last_open - timedelta(milliseconds=1), opened=filled)
        assert left(instance, last_open, opened=filled) == "max_duration"
        assert left(instance, last_open + timedelta(seconds=9), opened=filled) == "max_duration"
    assert instance.candles_held(a_trade(), last_open) == LONGEST


@pytest.mark.parametrize("runmode", [RunMode.DRY_RUN, RunMode.BACKTEST])
def test_an_error_skips_neither_what_follows_nor_the_longest_duration(
    config: dict[str, Any], runmode: RunMode, caplog: pytest.LogCaptureFixture
) -> None:
    config["runmode"] = runmode
    instance = made(Raises, config, HOLDS)
    assert left(instance) is False
    assert "KeyError('own')" in caplog.text
    caplog.clear()
    assert left(instance, late()) == "max_duration"
    # Said once, by us, where freqtrade does not see it.
    [told] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "KeyError('own')" in told.getMessage()
    instance = made(TakesProfit, config)
    answer(instance, RuntimeError("policy"))
    assert left(instance, profit=0.1) == "profit"
    assert left(instance) is False
    assert left(instance, late()) == "max_duration"
    instance = made(Raises, config)
    answer(instance, RuntimeError("policy"))
    assert left(instance) is False
    assert left(instance, late()) == "max_duration"


def test_a_rule_of_when_to_leave_that_fails_loses_the_decision(config: dict[str, Any]) -> None:
    class Fails(PolicyExits, Plain):
        def policy_leaves(self, decision: ExitDecision) -> bool:
            raise KeyError("rule")

    with pytest.raises(DecisionLostError, match=f"{PAIR}, .*: no decision about an open trade: 'rule'"):
        left(made(Fails, config, LEAVES))
    config["runmode"] = RunMode.DRY_RUN
    bot = made(Fails, config, LEAVES)
    assert left(bot) is False
    assert left(bot, late()) == "max_duration"


def test_a_lost_decision_ends_the_run_all_the_same(config: dict[str, Any]) -> None:
    instance = made(TakesProfit, config)

    def lost(*_: Any) -> None:
        raise DecisionLostError("lost")

    instance.trade_decisions.decide = lost
    for now in (OPENED, late()):
        with pytest.raises(DecisionLostError, match="lost"):
            left(instance, now)


@pytest.mark.parametrize(("rate", "by_column"), [(99.0, False), (103.0, True)])
def test_an_exit_column_that_freqtrade_refuses_silences_nobody(
    config: dict[str, Any], rate: float, by_column: bool
) -> None:
    """With ``exit_profit_only`` a signal at a loss leaves nothing, and custom_exit would not be called beside it."""
    instance = made(Without, config, HOLDS)
    instance.exit_profit_only, instance.exit_profit_offset, instance.use_exit_signal = True, 0.0, True
    instance.minimal_roi, instance.ignore_roi_if_entry_signal = {0: 10}, False
    trade = a_trade(opened=OPENED)
    trade.adjust_stop_loss(100.0, -0.1, initial=True)

    def reasons(now: datetime) -> list[str]:
        checks = instance.should_exit(trade, rate, now, enter=False, exit_=True, low=rate, high=rate)
        return [check.exit_reason for check in checks]

    assert reasons(late(-5)) == (["exit_signal"] if by_column else [])
    assert reasons(late()) == (["exit_signal"] if by_column else ["max_duration"])
    answer(instance, LEAVES)
    assert reasons(late(-5)) == (["exit_signal"] if by_column else ["rl_exit"])


# ---------------------------------------------------------------------- entries


def closed_trade(closed: datetime) -> None:
    values: dict[str, Any] = {"close_date": closed, "close_rate": 101.0, "is_open": False}
    LocalTrade.add_bt_trade(a_trade(OPENED - timedelta(days=90), **values))


def confirmed(strategy: Any, now: datetime) -> Any:
    return strategy_safe_wrapper(strategy.confirm_trade_entry, default_retval=True)(
        pair=PAIR,
        order_type="limit",
        amount=0.1,
        rate=100.0,
        time_in_force="GTC",
        current_time=now,
        entry_tag=None,
        side="long",
    )


class Chooses(PolicyExits, Plain):
    """Its own word on entries."""

    wants = True

    def confirm_trade_entry(self, pair: str, *_: Any, **__: Any) -> bool:
        return self.wants


class ChoosesToo(Chooses):
    """With what it inherits."""

    def confirm_trade_entry(self, *arguments: Any, **keywords: Any) -> bool:
        return super().confirm_trade_entry(*arguments, **keywords)


@pytest.mark.parametrize("strategy", [Chooses, ChoosesToo])
def test_an_entry_needs_both_words(config: dict[str, Any], strategy: type[IStrategy]) -> None:
    instance = made(strategy, config)
    assert confirmed(instance, OPENED)
    instance.wants = False
    assert not confirmed(instance, OPENED)
    closed_trade(OPENED)
    assert not confirmed(instance, OPENED)
    instance.wants = True
    assert not confirmed(instance, OPENED)
    assert confirmed(instance, OPENED + timedelta(minutes=5))
    assert not confirmed(made(BesideAndBefore, config), OPENED + timedelta(minutes=5))
    assert not confirmed(made(BesideAndAfter, config), OPENED + timedelta(minutes=5))


@pytest.mark.parametrize(("timeframe", "length"), [("1h", 1), ("1d", 24), ("1w", 7 * 24)])
def test_no_entry_in_the_candle_of_an_exit_on_any_timeframe(
    config: dict[str, Any], timeframe: str, length: int
) -> None:
    instance = made(Without, config | {"timeframe": timeframe})
    instance.timeframe = timeframe
    closed_trade(OPENED - timedelta(milliseconds=1))
    assert confirmed(instance, OPENED + timedelta(hours=length / 2))
    closed_trade(OPENED + timedelta(minutes=3))
    assert not confirmed(instance, OPENED + timedelta(hours=length) - timedelta(milliseconds=1))
    assert confirmed(instance, OPENED + timedelta(hours=length))


def test_a_bot_enters_by_the_last_row_alone_whatever_it_would_do_itself(config: dict[str, Any]) -> None:
    instance = made(Chooses, config | {"runmode": RunMode.DRY_RUN})
    for rows, free in (([], False), (["2024-09-01 23:50"], False), (["2024-09-01 23:50", "2024-09-01 23:55"], True)):
        frame = pd.DataFrame({"date": pd.to_datetime(rows, utc=True)})
        instance.dp = SimpleNamespace(get_analyzed_dataframe=lambda *_, frame=frame: (frame, OPENED))
        assert confirmed(instance, OPENED + timedelta(seconds=9)) == free


def test_an_entry_that_cannot_be_looked_into_is_refused(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """freqtrade takes an error for consent."""
    instance = made(Without, config)
    monkeypatch.setattr(Trade, "get_trades_proxy", lambda **_: 1 / 0)
    assert confirmed(instance, OPENED) is False
    assert "whether a trade may be entered cannot be found out" in caplog.text


# ---------------------------------------------------------------------- how strategies are made, kept and sent


class OwnInit(PolicyExits, Plain):
    """Knows its own before it knows freqtrade's."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.mine = 3
        IStrategy.__init__(self, config)


class ByHand(PolicyExits, Plain):
    """Holds what it asks under a name of its own."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.whom = TradeDecisions(config, self)

    def policy_leaves(self, decision: ExitDecision) -> bool:
        return decision.probability > 0.2


@pytest.mark.parametrize("strategy", [OwnInit, ByHand])
def test_a_strategy_makes_itself_as_it_likes(config: dict[str, Any], strategy: type[IStrategy]) -> None:
    instance = strategy(config)
    check_asks_for_decisions(instance)
    assert isinstance(instance, PolicyExits)
    answer(instance, LEAVES)
    assert left(instance) == "rl_exit"
    if isinstance(instance, ByHand):
        assert instance.trade_decisions is instance.whom
        # Its own rule of when to leave counts, whoever made what is asked.
        answer(instance, HOLDS._replace(probability=0.21))
        assert left(instance) == "rl_exit"


def test_what_was_asked_by_hand_before_is_asked_by_the_mixin(config: dict[str, Any]) -> None:
    class Before(PolicyExits, Plain):
        trade_decisions: TradeDecisions | None = None

        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(config)
            self.trade_decisions = TradeDecisions(config, self)

    instance = Before(config)
    check_asks_for_decisions(instance)
    answer(instance, LEAVES)
    assert left(instance) == "rl_exit"


def test_wrong_settings_are_refused_as_a_strategy_is_made(config: dict[str, Any]) -> None:
    config["freqai"]["rl_config"]["n_envs"] = 0
    with pytest.raises(OperationalException, match=r"freqai\.rl_config\.n_envs is 0; accepted: "):
        Without(config)
    # Without FreqAI they may be another model's.
    config["freqai"]["enabled"] = False
    assert left(Without(config), OPENED + timedelta(minutes=5 * 96)) == "max_duration"


def test_a_callback_assigned_afterwards_is_refused(config: dict[str, Any]) -> None:
    instance = Without(config)
    instance.custom_exit = lambda **_: None  # type: ignore[method-assign]
    with pytest.raises(OperationalException, match=r"Without\.custom_exit has been assigned .*remedy: define it there"):
        check_asks_for_decisions(instance)


def test_a_copy_asks_for_itself(config: dict[str, Any]) -> None:
    original = made(TakesProfit, config, LEAVES)
    assert left(copy.copy(original)) == "rl_exit"
    deep = copy.deepcopy(original)
    answer(deep, HOLDS)
    assert left(deep, profit=0.1) == "profit"
    assert left(original) == "rl_exit"
    assert deep.trade_decisions._strategy is deep
    assert deep.trade_decisions._leaves.__self__ is deep


FILE = """
from freqtrade.strategy import IStrategy

from mtfscalper.strategy import PolicyExits


class Base(PolicyExits, IStrategy):
    timeframe = "5m"
    stoploss = -0.1

    def populate_indicators(self, dataframe, metadata):
        return dataframe

    populate_entry_trend = populate_exit_trend = populate_indicators


class FromFile(Base):
    def custom_exit(self, pair, trade, current_time, current_rate, current_profit, **kwargs):
        return "profit" if current_profit > 0.05 else super().custom_exit(
            pair, trade, current_time, current_rate, current_profit, **kwargs
        )
"""


@pytest.fixture
def from_file(config: dict[str, Any], tmp_path: Path) -> IStrategy:
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "FromFile.py").write_text(FILE)
    return StrategyResolver.load_strategy(config | {"strategy": "FromFile", "stake_currency": "USDT"})


def test_freqtrade_loads_a_strategy_from_a_file(from_file: Any) -> None:
    answer(from_file, HOLDS)
    assert left(from_file, profit=0.1) == "profit"
    assert left(from_file, late()) == "max_duration"
    answer(from_file, LEAVES)
    assert left(from_file, profit=0.1) == "rl_exit"


WORKER = """
import pickle, sys
from datetime import timedelta
from freqtrade.enums import RunMode
from freqtrade.persistence import FtNoDBContext, LocalTrade

strategy, trade, late = pickle.loads(open(sys.argv[1], "rb").read())
decisions = strategy.trade_decisions
assert type(strategy).__module__ not in sys.modules, "the strategy's file can be imported"

def ask(probability, now, profit):
    from mtfscalper.strategy import ExitDecision
    decisions.decide = lambda *_: ExitDecision(probability > 0.5, probability, 0.0, 0.0, 1)
    return strategy.custom_exit(pair=trade.pair, trade=trade, current_time=now, current_rate=1.0, current_profit=profit)

with FtNoDBContext("5m"):
    early = trade.open_date_utc + timedelta(minutes=5)
    print(ask(0.9, early, 0.1), ask(0.1, early, 0.1), ask(0.1, early, 0.0), ask(0.1, late, 0.0))
"""


def test_a_hyperopt_worker_gets_a_strategy_that_asks(from_file: Any, tmp_path: Path) -> None:
    """In a process of its own: freqtrade tells cloudpickle which modules to send by value, for good."""
    sent = tmp_path / "sent.pkl"
    script = f"""
import cloudpickle
from datetime import datetime
from pathlib import Path
from freqtrade.enums import RunMode
from freqtrade.optimize.hyperopt.hyperopt_optimizer import HyperOptimizer
from freqtrade.persistence import LocalTrade
from freqtrade.resolvers import StrategyResolver
import json
config = json.loads(Path({str(tmp_path / "config.json")!r}).read_text())
config |= {{"user_data_dir": Path(config["user_data_dir"]), "runmode": RunMode.HYPEROPT}}
strategy = StrategyResolver.load_strategy(config)
optimizer = HyperOptimizer.__new__(HyperOptimizer)
optimizer.hyperopt_pickle_magic(type(strategy).__bases__)
values = json.loads({json.dumps({"pair": PAIR, "open_rate": 1.0, "amount": 1.0, "stake_amount": 1.0})!r})
trade = LocalTrade(
    **values, id=1, open_date=datetime.fromisoformat({OPENED.isoformat()!r}), fee_open=0.0, fee_close=0.0,
    exchange="binance", leverage=1.0,
)
late = datetime.fromisoformat({late().isoformat()!r})
Path({str(sent)!r}).write_bytes(cloudpickle.dumps((strategy, trade, late)))
"""
    config = {name: value for name, value in from_file.config.items() if name != "runmode"}
    config |= {"strategy": "FromFile", "stake_currency": "USDT", "user_data_dir": str(tmp_path)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for arguments in (["-c", script], ["-c", WORKER, str(sent)]):
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["rl_exit", "profit", "None", "max_duration"]
