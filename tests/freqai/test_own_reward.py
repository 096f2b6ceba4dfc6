"""A reward that was written for FreqAI: what it sees and is asked, candle by candle."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import PAIR, candle_table, make_settings, make_tape, random_candles
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.RL.Base5ActionRLEnv import Base5ActionRLEnv
from freqtrade.resolvers.freqaimodel_resolver import FreqaiModelResolver
from own_rewards import FEATURE, Documented, Impatient, PaysExits, PaysExits3, PaysExits4, ReadsEverything

from mtfscalper.envs.batched_env import BatchedTradingEnv
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.envs.trading_env import TradingEnv
from mtfscalper.freqai.model import MtfScalperFreqaiModel
from mtfscalper.freqai.own_reward import check_reward_of_strategy, users_reward
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.own_reward import OwnRewardError
from mtfscalper.trading.trades import ClosedTrade

NEUTRAL, LONG_ENTER, LONG_EXIT, SHORT_ENTER, SHORT_EXIT = range(5)
PARAMETERS: dict[str, Any] = {
    "rr": 1,
    "profit_aim": 0.025,
    "invalid_action_penalty": -2,
    "idle": {"each_candle": -0.5},
    "hold_penalty_factor": 3,
}


def config_with(**parameters: Any) -> dict[str, Any]:
    rl = {"max_trade_duration_candles": 300, "model_reward_parameters": PARAMETERS | parameters}
    return {"stake_amount": "unlimited", "timeframe": "5m", "freqai": {"rl_config": rl}}


def model_with(kind: type) -> type:
    return type("Mine", (MtfScalperFreqaiModel,), {"MyRLEnv": kind})


def paid_by(kind: type, settings: EnvSettings, features: pd.DataFrame | None = None) -> EnvSettings:
    config = config_with()
    reward = users_reward(model_with(kind), config)
    assert reward is not None
    return replace(settings, own_reward=reward.of_pair(PAIR, config, settings.rules, settings.lookback, features))


def rewards_of(env: TradingEnv, actions: list[int]) -> list[float]:
    env.reset()
    return [env.step(np.int64(action))[1] for action in actions]


# ---------------------------------------------------------------------- by hand

# Open, high, low, close of candles 0 to 10; the first decision is that of candle 1. A short that is entered at the
# open of candle 5 is stopped at 102 in candle 6.
BY_HAND = make_tape(
    candle_table(
        (100, 100.5, 99.5, 100),
        (100, 101.5, 99.5, 101),
        (101, 102.5, 100.5, 102),
        (102, 103.0, 101.5, 103),
        (103, 103.5, 99.5, 100),
        (100, 100.5, 99.5, 100),
        (100, 103.0, 99.5, 103),
        (103, 103.5, 102.5, 103),
        (103, 103.5, 102.5, 103),
        (103, 103.5, 102.5, 103),
        (103, 103.5, 102.5, 103),
    )
)
ACTIONS = [LONG_ENTER, NEUTRAL, LONG_EXIT, NEUTRAL, SHORT_ENTER, NEUTRAL, NEUTRAL, LONG_EXIT]
# With 10 bps a side: bought for 100.1, sold for 102 x 0.999 = 101.898; sold for 99.9, bought for 102 x 1.001 = 102.102.
GAIN, LOSS = 101.898 / 100.1 - 1, -(102.102 / 99.9 - 1)


def test_the_documented_reward_pays_the_hand_computed_list() -> None:
    env = TradingEnv(BY_HAND, paid_by(Documented, make_settings(fee_ratio=0.001)))
    expected = [25, -1 / 300, 150 * GAIN, -1, 25, 150 * LOSS, -1, -2]
    assert rewards_of(env, ACTIONS) == pytest.approx(expected, rel=1e-12)


def test_a_reward_that_pays_exits_alone_pays_the_hand_computed_list() -> None:
    env = TradingEnv(BY_HAND, paid_by(PaysExits, make_settings(fee_ratio=0.001)))
    assert rewards_of(env, ACTIONS) == pytest.approx([0, 0, GAIN, 0, 0, LOSS, 0, 0], rel=1e-12)


def test_a_reward_of_ones_own_state_and_parameters_pays_the_hand_computed_list() -> None:
    env = TradingEnv(BY_HAND, paid_by(Impatient, make_settings(fee_ratio=0.001)))
    expected = [
        0.0,  # Enters: idle for one candle.
        100 * 0.01 - 3 / 300,
        100 * (102 / 101 - 1) - 3 * 2 / 300,
        -0.5 * 1,
        0.0,
        # The stop is shown at the open of its candle to a reward that looks at opens.
        100 * -(100 / 100 - 1) - 3 / 300,
        -0.5 * 1,
        -2,
    ]
    assert rewards_of(env, ACTIONS) == pytest.approx(expected, rel=1e-12)
    assert env.reward_metrics() == {"custom/invalid": 1.0}


def test_the_last_candle_of_the_data_is_a_call_of_its_own() -> None:
    env = TradingEnv(BY_HAND, paid_by(Documented, make_settings(fee_ratio=0.0, stoploss_ratio=0.5)))
    env.reset()
    for _ in range(7):
        env.step(np.int64(NEUTRAL))
    # Entered at candle 8, held at candle 9, and closed at the open of candle 10, the last, for what it was bought.
    assert env.step(np.int64(LONG_ENTER))[1] == 25
    _, reward, _, truncated, _ = env.step(np.int64(NEUTRAL))
    assert (reward, truncated) == (pytest.approx(-1 / 300), True)
    # One that is entered there is paid for its entry and, by 1 %, for its end.
    candles = candle_table(*[(100, 100.5, 99.5, 100)] * 3, (101, 101.5, 100.5, 101))
    env = TradingEnv(make_tape(candles), paid_by(Documented, make_settings(fee_ratio=0.0)))
    env.reset()
    assert env.step(np.int64(NEUTRAL))[1] == -1
    _, reward, _, truncated, _ = env.step(np.int64(LONG_ENTER))
    assert (reward, truncated) == (pytest.approx(25 + 150 * 0.01), True)


# ---------------------------------------------------------------------- beside FreqAI's own environment


@pytest.mark.parametrize("kind", [Documented, Impatient, PaysExits, PaysExits4, PaysExits3])
def test_freqais_environment_gives_the_same_numbers_one_candle_earlier(kind: type) -> None:
    candles = random_candles(3, 400, volatility=0.002)
    short = kind is not PaysExits3
    rules = {"fee_ratio": 0.0, "stoploss_ratio": 0.99, "max_trade_duration_candles": 1000, "can_short": short}
    # FreqAI's observation at tick k ends with candle k - 1, and its action fills at the open of k + 1: an account here
    # that first decides at candle 2 meets the ticks of a window of 1.
    settings = make_settings(lookback=2, **rules)
    env = TradingEnv(make_tape(candles), paid_by(kind, settings))
    prices = candles[["open", "high", "low", "close"]]
    config = config_with()
    config["freqai"]["rl_config"]["max_training_drawdown_pct"] = 0.99
    stock = kind(
        df=prices,
        prices=prices,
        reward_kwargs=PARAMETERS,
        window_size=1,
        config=config,
        fee=0.0,
        can_short=short,
        pair=PAIR,
        df_raw=prices,
    )
    stock.reset()
    env.reset()
    # Of FreqAI's numbers, with those that cannot be done among them.
    of_stock = {Documented: 5, Impatient: 5, PaysExits: 5, PaysExits4: 4, PaysExits3: 3}[kind]
    ours = {5: [0, 1, 2, 3, 4], 4: [0, 2, 1, 3], 3: [0, 1, 2]}[of_stock]
    random, traded, paid = np.random.default_rng(0), 0, Counter[str]()
    for _ in range(390):
        action = int(random.integers(0, of_stock))
        side = env._state.account.side
        asked = SHORT_EXIT if of_stock == 4 and action == 1 and side < 0 else ours[action]
        _, expected, *_ = stock.step(action)
        _, reward, terminated, truncated, _ = env.step(np.int64(asked))
        assert reward == pytest.approx(expected, rel=1e-9, abs=1e-12)
        traded += env._state.account.side != side
        paid[str(np.sign(reward))] += 1
        assert not terminated
        assert not truncated
    assert traded > 50
    assert paid["1.0"] > 20
    assert paid["-1.0"] > 20
    seen = env._own_reward._env
    for mine, theirs in zip(seen.trade_history, stock.trade_history, strict=True):
        assert mine == pytest.approx(theirs)
    assert seen._position_history == stock._position_history
    assert seen._total_profit == pytest.approx(stock._total_profit, rel=1e-9)
    assert seen._total_unrealized_profit == pytest.approx(stock._total_unrealized_profit, rel=1e-9)
    assert seen.history["tick"] == stock.history["tick"]
    assert seen.history["trade_duration"] == stock.history["trade_duration"]


# ---------------------------------------------------------------------- every trade is paid once


def played(tape: MarketTape, settings: EnvSettings, masked: bool) -> tuple[float, list[ClosedTrade]]:
    """All that random actions are paid and trade on a whole tape."""
    env = TradingEnv(tape, settings)
    env.reset()
    random, total = np.random.default_rng(1), 0.0
    while True:
        actions = np.flatnonzero(env.action_masks()) if masked else np.arange(5)
        # Mostly held, so that rules end trades too.
        action = random.choice(actions) if random.random() < (0.2 if masked else 0.6) else NEUTRAL
        _, reward, terminated, truncated, info = env.step(np.int64(action))
        total += reward
        if terminated or truncated:
            return total, info["trades"]


RULES: dict[str, Any] = {
    "stoploss_ratio": 0.02,
    "max_trade_duration_candles": 4,
    "minimal_roi": ((0, 0.03), (15, 0.015)),
    "trailing_stop": True,
    "trailing_stop_positive": 0.01,
    "trailing_stop_positive_offset": 0.015,
    "trailing_only_offset_is_reached": True,
    "leverage_long": 3.0,
    "leverage_short": 2.0,
    "max_drawdown_ratio": 1.0,
    "stake_ratio": 0.1,
}


@pytest.mark.parametrize("entry_mode", ["agent", "gated", "classic"])
@pytest.mark.parametrize("kind", [PaysExits, PaysExits4, PaysExits3])
@pytest.mark.parametrize("masked", [True, False])
def test_a_reward_that_pays_on_exits_alone_pays_every_trade_its_profit_after_costs(
    kind: type, entry_mode: str, masked: bool
) -> None:
    n, random = 1500, np.random.default_rng(5)
    candles = random_candles(7, n, volatility=0.004).assign(funding=random.normal(0, 0.01, n))
    tape = make_tape(candles, random.random(n) < 0.15, random.random(n) < 0.15)
    settings = make_settings(entry_mode, can_short=kind is not PaysExits3, **RULES)
    total, trades = played(tape, paid_by(kind, settings), masked)
    assert total == pytest.approx(sum(trade.profit_ratio for trade in trades), rel=1e-9)
    reasons = Counter(trade.exit_reason for trade in trades)
    assert {"exit_signal", "stop_loss", "roi", "trailing_stop_loss", "max_duration"} <= set(reasons), reasons
    assert any(trade.open_ms == trade.close_ms for trade in trades)


def test_a_liquidation_and_the_end_of_the_data_are_paid() -> None:
    tape = make_tape(candle_table(*[(100, 101, 99, 100)] * 4, (100, 100, 92, 93), *[(93, 94, 92, 93)] * 5))
    rules: dict[str, Any] = {"stoploss_ratio": 0.99, "leverage_long": 10.0, "liquidation_long": 0.95}
    settings = make_settings(max_drawdown_ratio=1.0, stake_ratio=0.5, **rules)
    env = TradingEnv(tape, paid_by(PaysExits, settings))
    paid = rewards_of(env, [LONG_ENTER, NEUTRAL, NEUTRAL, NEUTRAL, LONG_ENTER, NEUTRAL, NEUTRAL, NEUTRAL])
    liquidated, forced = env._trades
    assert (liquidated.exit_reason, forced.exit_reason) == ("liquidation", "force_exit")
    assert paid == pytest.approx([0, 0, 0, liquidated.profit_ratio, 0, 0, 0, forced.profit_ratio])


# ---------------------------------------------------------------------- what it may read


def test_what_public_rewards_read_is_there_and_agrees_with_itself() -> None:
    candles = random_candles(3, 600)
    features = pd.DataFrame({FEATURE: np.arange(600) / 6.0}, index=range(1000, 1600))
    settings = paid_by(ReadsEverything, make_settings(**RULES), features)
    env = TradingEnv(make_tape(candles), settings)
    random = np.random.default_rng(0)
    rewards = []
    for _ in range(2):
        env.reset()
        rewards += [env.step(random.choice(np.flatnonzero(env.action_masks())))[1] for _ in range(250)]
    assert all(map(math.isfinite, rewards))
    assert env.reward_metrics()["features/rsi"] == env._own_reward._env._current_tick / 6.0


def test_the_tick_is_the_candle_that_is_decided_and_idle_ones_are_passed_by() -> None:
    signals = np.isin(np.arange(40), [9, 19, 20])
    seen: list[tuple[int, int, str]] = []

    class Notes(Base5ActionRLEnv):
        def calculate_reward(self, action: int) -> float:
            seen.append((self._current_tick, action, self._position.name))
            return 0.0

    tape = make_tape(candle_table(*[(100.0, 100.2, 99.8, 100.01)] * 40), signals)
    env = TradingEnv(tape, paid_by(Notes, make_settings("gated")))
    rewards_of(env, [NEUTRAL, LONG_ENTER, NEUTRAL, LONG_EXIT])
    assert seen == [(10, 0, "Neutral"), (20, 1, "Neutral"), (21, 0, "Long"), (22, 2, "Long")]


class Curious(Base5ActionRLEnv):
    def calculate_reward(self, action: int) -> float:
        return float(self.signal_features.iloc[0, 0])


class Divides(Base5ActionRLEnv):
    def calculate_reward(self, action: int) -> float:
        zero = self._current_tick - self._current_tick
        return 1 / zero


class NotANumber(Base5ActionRLEnv):
    def calculate_reward(self, action: int) -> float:
        return float("nan")


class Nothing(Base5ActionRLEnv):
    def calculate_reward(self, action: int) -> Any:
        return None


class Misnames(Base5ActionRLEnv):
    def calculate_reward(self, action: int) -> float:
        return float(self.raw_features["%-rsi-period_10_BTC/USDT:USDT_5m"].iloc[self._current_tick])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Curious, r"line \d+ \(return float\(self.signal_features.*AttributeError: self.signal_features is nothing"),
        (Divides, r"test_own_reward.py, line \d+ \(return 1 / zero\): ZeroDivisionError: division by zero"),
        (NotANumber, "gives nan at candle 1; accepted: a finite number"),
        (Nothing, "gives None of type NoneType for the action 0; accepted: a finite number"),
        (Misnames, f"KeyError: .*of the features, the nearest is '{FEATURE}'"),
    ],
)
def test_what_cannot_be_computed_is_said_with_the_users_line(kind: type, said: str) -> None:
    features = pd.DataFrame({FEATURE: np.arange(11.0)})
    env = TradingEnv(BY_HAND, paid_by(kind, make_settings(), features))
    with pytest.raises(OwnRewardError, match=said):
        rewards_of(env, [NEUTRAL])


@pytest.mark.parametrize("given", [None, "1.0", [1.0], (1,), {"reward": 1.0}])
def test_a_reward_that_is_no_number_is_named_with_what_it_is(given: Any) -> None:
    kind = type("MyRLEnv", (Base5ActionRLEnv,), {"calculate_reward": lambda self, action: given})
    with pytest.raises(OwnRewardError) as told:
        rewards_of(TradingEnv(BY_HAND, paid_by(kind, make_settings())), [NEUTRAL])
    assert str(told.value).startswith(f"MyRLEnv.calculate_reward gives {given!r} of type {type(given).__name__} for")
    assert "site-packages" not in str(told.value)


@pytest.mark.parametrize("given", [1, True, 0.5, np.float32(0.5), np.int64(2), np.array(0.5)])
def test_whatever_is_a_number_is_a_reward(given: Any) -> None:
    kind = type("MyRLEnv", (Base5ActionRLEnv,), {"calculate_reward": staticmethod(lambda action: given)})
    assert rewards_of(TradingEnv(BY_HAND, paid_by(kind, make_settings())), [NEUTRAL]) == [float(given)]


def test_what_is_not_shown_is_said_with_one_remedy() -> None:
    kind = type("MyRLEnv", (Base5ActionRLEnv,), {"calculate_reward": lambda self, action: self.pnl})
    with pytest.raises(OwnRewardError, match=r"self\.pnl is nothing that a reward is shown here") as told:
        rewards_of(TradingEnv(BY_HAND, paid_by(kind, make_settings())), [NEUTRAL])
    assert str(told.value).count("; accepted: ") == str(told.value).count("; remedy: ") == 1


# ---------------------------------------------------------------------- what is refused at the start


@pytest.mark.parametrize(
    ("asked", "takes"), [(lambda self: 0.0, "(self)"), (lambda self, action, pnl: 0.0, "(self, action, pnl)")]
)
def test_a_reward_that_cannot_be_asked_with_an_action_is_refused(asked: Any, takes: str) -> None:
    kind = type("MyRLEnv", (Base5ActionRLEnv,), {"calculate_reward": asked})
    with pytest.raises(OperationalException, match=r"accepted: .self, action., for it is asked") as told:
        users_reward(model_with(kind), config_with())
    assert f"Mine.MyRLEnv.calculate_reward takes {takes}; " in str(told.value)


def method(*_: Any, **__: Any) -> float:
    return 0.0


@pytest.mark.parametrize(
    "name", ["step", "reset", "reset_env", "_get_observation", "set_action_space", "is_tradesignal", "action_masks"]
)
def test_what_would_change_more_than_the_reward_is_refused_by_name(name: str) -> None:
    kind = type("MyRLEnv", (Base5ActionRLEnv,), {"calculate_reward": method, name: method})
    with pytest.raises(OperationalException, match=rf"^Mine\.MyRLEnv overrides {name}, which nothing calls here"):
        users_reward(model_with(kind), config_with())
    child = type("MyRLEnv", (kind,), {})
    with pytest.raises(OperationalException, match=f"overrides {name}"):
        users_reward(model_with(child), config_with())


def test_a_class_without_a_reward_or_of_unknown_actions_is_refused() -> None:
    with pytest.raises(OperationalException, match="has no calculate_reward"):
        users_reward(model_with(type("MyRLEnv", (Base5ActionRLEnv,), {})), config_with())
    with pytest.raises(OperationalException, match="accepted: a class that inherits from Base5ActionRLEnv or Base4"):
        users_reward(model_with(type("MyRLEnv", (), {"calculate_reward": method})), config_with())
    assert users_reward(MtfScalperFreqaiModel, config_with()) is None


def test_three_actions_are_refused_where_shorts_are_allowed() -> None:
    reward = users_reward(model_with(PaysExits3), config_with())
    check_reward_of_strategy(reward, can_short=False)
    with pytest.raises(OperationalException, match="its Sell turns a long into a short at once"):
        check_reward_of_strategy(reward, can_short=True)
    check_reward_of_strategy(users_reward(model_with(PaysExits4), config_with()), can_short=True)


def test_environments_that_step_many_accounts_at_once_refuse_it() -> None:
    with pytest.raises(ValueError, match="own_reward is asked about one account at a time"):
        BatchedTradingEnv(BY_HAND, paid_by(PaysExits, make_settings()), 2)
    with pytest.raises(ValueError, match="own_reward is given 2 tapes"):
        TradingEnv([BY_HAND, BY_HAND], paid_by(PaysExits, make_settings()))


_NESTED = """
class Mine(MtfScalperFreqaiModel):
    class {name}(Base5ActionRLEnv):
        def calculate_reward(self, action):
            return 1.0
"""
_BESIDE = """
class {name}(Base5ActionRLEnv):
    def calculate_reward(self, action):
        return 1.0

class Mine(MtfScalperFreqaiModel):
    {body}
"""
_IMPORTS = """
from freqtrade.freqai.RL.Base5ActionRLEnv import Base5ActionRLEnv
from mtfscalper.freqai.model import MtfScalperFreqaiModel
"""


@pytest.mark.parametrize(
    ("source", "unused"),
    [
        (_NESTED.format(name="MyRLEnvironment"), "MyRLEnvironment"),
        (_BESIDE.format(name="MyRLEnv", body="pass"), "MyRLEnv"),
        (_NESTED.format(name="MyRLEnv"), None),
        (_BESIDE.format(name="Paid", body="MyRLEnv = Paid"), None),
        # Of another model in the file.
        (_NESTED.format(name="MyRLEnv").replace("Mine", "Other") + "class Mine(MtfScalperFreqaiModel): ...", None),
    ],
)
def test_a_reward_that_nothing_would_find_is_refused(tmp_path: Path, source: str, unused: str | None) -> None:
    (tmp_path / "Mine.py").write_text(_IMPORTS + source)
    # As freqtrade finds it, which keeps the class and not its module.
    model, _ = FreqaiModelResolver._search_object(directory=tmp_path, object_name="Mine")
    assert model is not None
    if unused is None:
        assert (users_reward(model, config_with()) is None) == ("Other" in source)
    else:
        with pytest.raises(OperationalException, match=rf"^Mine comes with a class {unused} \(.*remedy: name it so"):
            users_reward(model, config_with())
