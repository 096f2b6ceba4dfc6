"""Every trade is freqtrade's: its real backtester and our rules on the same candles and decisions, tens of thousands.

Candle of entry and exit, side, rates and exit reason are equal, profit ratios within 1e-12, the wallet within 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from builders import candle_table, make_rules, make_tape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parity.backtester import PAIR, STAKE, Backtester
from parity.playing import assert_same_trades, play_tape
from parity_census import TRAILING_MODES, Census
from parity_markets import EVENTS, PAIRS, History, Market, RealPair, Recipe, gap_free, real_pair, synthetic_history
from random_markets import N_FEATURES, random_policy

from mtfscalper.envs.trading_env import EnvSettings
from mtfscalper.freqai.candles import exchange_price_scale
from mtfscalper.freqai.entry_terms import Asker
from mtfscalper.market.tape import PRICE_COLUMNS
from mtfscalper.policy import closed_loop
from mtfscalper.policy.inference import PolicyDecider
from mtfscalper.trading.actions import Action
from mtfscalper.trading.reward import RewardSettings
from mtfscalper.trading.rules import EQUITY_FLOOR
from mtfscalper.trading.trades import ClosedTrade
from mtfscalper.trading.trading_rules import TradingRules

pytestmark = pytest.mark.acceptance

EXIT_REASONS = ("exit_signal", "max_duration", "stop_loss", "roi", "trailing_stop_loss", "force_exit")
ENTRY_MODES = ("gated", "agent", "classic")
# The second forbids entries after losses.
STAKES: tuple[dict[str, float | None], ...] = (
    {"stake_ratio": 0.99, "fixed_stake_ratio": 0.001},
    {"stake_ratio": 0.99, "fixed_stake_ratio": 0.3},
    {"stake_ratio": 0.5, "fixed_stake_ratio": None},
    {"stake_ratio": 0.99, "fixed_stake_ratio": None},
)
TICKS = (0.1, 0.5, 0.01)
N_SEEDED, N_SEARCHED = 750, 120
WIDEST = 8


class Arena:
    """Both sides, and the count of what they were compared on."""

    def __init__(self, folder: Path) -> None:
        self.census = Census()
        self._folder = folder
        self._backtesters: dict[Any, Backtester] = {}

    def backtester(self, *, spot: bool = False, tick: float = 0.01, stake: int = 0) -> Backtester:
        key = (spot, tick, stake)
        if key not in self._backtesters:
            self._backtesters[key] = Backtester(self._folder, spot=spot, tick=tick, **STAKES[stake])
        return self._backtesters[key]

    def compare(
        self, backtester: Backtester, market: Market, rules: TradingRules, script: np.ndarray, source: str, mode: str
    ) -> list[ClosedTrade]:
        """Play a script both ways; gives the trades once they are known to be the same."""
        expected = backtester.run(market.candles, rules, script, market.funding, market.ticks)
        trades, profits, equity = play_tape(market.tape, rules, script)
        assert not expected.left_open
        assert_same_trades(trades, expected.trades, rules)
        message = f"rules: {rules}"
        np.testing.assert_allclose(profits, expected.profits, rtol=1e-9, atol=1e-14, err_msg=message)
        np.testing.assert_allclose(equity, max(expected.wallet, EQUITY_FLOOR), rtol=1e-9, err_msg=message)
        self.census.runs += 1
        self.census.refused += expected.refused
        self.census.add(trades, rules, market, source, mode)
        return trades


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    arena = Arena(tmp_path_factory.mktemp("freqtrade"))
    yield arena
    print("\n" + arena.census.table("parity"))


# ---------------------------------------------------------------------- what is drawn


class Source(Protocol):
    """Where a scenario comes from: hypothesis, or a seed."""

    def choice(self, options: Sequence[Any]) -> Any: ...
    def integer(self, low: int, high: int) -> int: ...
    def number(self, low: float, high: float) -> float: ...


class Seeded:
    """Even draws: hypothesis prefers corners and repeats itself, so that spot, the longer ROI tables, trades left open
    at the end and other rarities stay under a twentieth of what it draws; it finds and shrinks, this one counts.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def choice(self, options: Sequence[Any]) -> Any:
        return options[self._random.integers(len(options))]

    def integer(self, low: int, high: int) -> int:
        return int(self._random.integers(low, high + 1))

    def number(self, low: float, high: float) -> float:
        return float(self._random.uniform(low, high))


class Searched:
    """Draws of hypothesis, which shrinks what fails."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def choice(self, options: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(options))

    def integer(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def number(self, low: float, high: float) -> float:
        return self._draw(st.floats(low, high))


@dataclass(frozen=True)
class Scenario:
    """What a comparison is made of, beside the candles' and the script's randomness, which come from the recipe."""

    spot: bool
    tick: float
    stake: int
    recipe: Recipe
    rules: TradingRules


def a_scenario(source: Source, markets: Sequence[str] = ("futures", "futures", "futures", "spot")) -> Scenario:
    spot, stake = source.choice(markets) == "spot", source.integer(0, len(STAKES) - 1)
    return Scenario(spot, source.choice(TICKS), stake, _recipe(source, spot), _rules(source, spot, stake))


def _recipe(source: Source, spot: bool) -> Recipe:
    decimals = source.integer(0, 8)
    later_decimals = max(0, decimals + source.choice([0, 0, -1, 1, -8]))
    return Recipe(
        seed=source.integer(0, 2**32 - 1),
        n=source.integer(60, 420),
        decimals=decimals,
        later_decimals=later_decimals,
        # Three digits are left of a price that loses decimals.
        digits=max(source.integer(3, 6), 3 + decimals - min(decimals, later_decimals)),
        volatility=source.choice([0.001, 0.003, 0.006]),
        events=frozenset(source.choice(EVENTS) for _ in range(source.integer(0, 4))),
        # Spot has no funding.
        funding_hours=None if spot else source.choice([None, 1, 8]),
    )


def _rules(source: Source, spot: bool, stake: int) -> TradingRules:
    def corner_or(low: float, high: float, *corners: float) -> float:
        return source.choice([low, high, *corners]) if source.choice([True, False]) else source.number(low, high)

    def leverage() -> float:
        return 1.0 if spot else corner_or(1.0, 10.0, 2.0, 3.0, 5.0)

    return make_rules(
        fee_ratio=corner_or(0.0, 0.002, 0.0005, 0.001),
        stoploss_ratio=corner_or(0.003, 0.2, 0.01, 0.02),
        max_trade_duration_candles=source.choice([1, 3, 12, 48, 96, 500]),
        leverage_long=leverage(),
        leverage_short=leverage(),
        minimal_roi=_roi_table(source),
        can_short=not spot and source.choice([True, True, True, False]),
        **_trailing(source),
        **STAKES[stake],
        available_ratio=STAKES[stake]["stake_ratio"],
    )


def _trailing(source: Source) -> dict[str, Any]:
    mode = source.choice(TRAILING_MODES)
    # Shares of the stake: with leverage the price moves less.
    positive, offset = source.number(0.001, 0.02), source.number(0.001, 0.02)
    if mode == "none":
        return {}
    given: dict[str, Any] = {"trailing_stop": True, "trailing_only_offset_is_reached": "only" in mode}
    if "positive" in mode:
        given["trailing_stop_positive"] = positive
    if "offset" in mode:
        given["trailing_stop_positive_offset"] = offset + positive
    return given


_ROI_RATIOS = ((0.001, 0.05), (0.001, 0.01), (0.01, 0.02), (0.02, 0.05), (-0.01, 0.0))


def _roi_table(source: Source) -> tuple[tuple[int, float], ...]:
    """Up to four steps, whose ratios need not fall and which need not start on a candle."""

    def start() -> int:
        return source.choice([0, 5 * source.integer(0, 30), source.integer(0, 150)])

    def ratio() -> float:
        # No round number: a rate half-way between two ticks goes where the noise of the trade's amount puts it.
        return source.choice([source.number(*bounds) + 1e-8 * math.pi for bounds in _ROI_RATIOS] + [-1.0])

    return tuple(sorted({start(): ratio() for _ in range(source.integer(0, 4))}.items()))


def random_script(random: np.random.Generator, n: int) -> np.ndarray:
    """Decisions at random, mostly none; entries of the other side and exits without a trade among them."""
    script = np.where(random.random(n) < random.uniform(0.2, 0.8), Action.NEUTRAL, random.integers(0, 5, n))
    script[-1] = Action.NEUTRAL
    return script


# ---------------------------------------------------------------------- scripts


def play_script(arena: Arena, scenario: Scenario, source: str) -> None:
    """Compare random decisions on the gap-free runs of a synthetic market."""
    backtester = arena.backtester(spot=scenario.spot, tick=scenario.tick, stake=scenario.stake)
    random = np.random.default_rng(scenario.recipe.seed)
    mode = "spot" if scenario.spot else "futures"
    for market in gap_free(
        synthetic_history(scenario.recipe, float(exchange_price_scale(backtester.exchange, PAIR, np.ones(1))[0]))
    ):
        arena.compare(backtester, market, scenario.rules, random_script(random, len(market.tape)), source, mode)


def test_hypothesis_finds_no_decisions_that_trade_differently_in_freqtrade(arena: Arena) -> None:
    before = arena.census.n_trades

    @settings(
        max_examples=N_SEARCHED,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(st.composite(lambda draw: a_scenario(Searched(draw)))())
    def each(scenario: Scenario) -> None:
        play_script(arena, scenario, "hypothesis, synthetic")

    each()
    assert arena.census.n_trades - before > 1000


def test_random_decisions_make_the_trades_of_freqtrade_on_synthetic_candles(arena: Arena) -> None:
    for seed in range(N_SEEDED):
        play_script(arena, a_scenario(Seeded(seed)), "random, synthetic")
    census = arena.census
    census.require("exit reason", EXIT_REASONS, 200)
    census.require("side", ("long", "short"), 3000)
    census.require("market", ("spot", "futures"), 1000)
    census.require("leverage", ("1", "1–3", "3–6", "6–10"), 500)
    census.require("fee %", ("0", "0–0.05", "0.05–0.1", "0.1–0.2"), 300)
    census.require("stop %", ("1", "1–5", "5–20"), 500)
    census.require("trailing", TRAILING_MODES, 500)
    census.require("ROI", ("none", *(f"{n} steps" for n in range(1, 5)), "left by a table with -1"), 200)
    census.require("stake", ("fixed", "the wallet's share"), 2000)
    census.require("funding", ("charged", "none"), 500)
    census.require("decimals", map(str, range(9)), 300)
    candles = ("jump", "flash crash", "flat", "zero volume", "filled gap", "beside missing candles")
    census.require("candles", (*candles, "whole prices", "month end"), 100)
    assert census.refused > 500


# ---------------------------------------------------------------------- policies


def random_signals(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return random.random(n) < 0.2, random.random(n) < 0.2


def features_of(candles: Any) -> np.ndarray:
    """What a policy sees of candles: returns over three horizons and the last candle's span, about unit size."""
    close = np.log(candles["close"].to_numpy())
    returns = [np.append(np.zeros(n), close[n:] - close[:-n]) for n in (1, 3, 12)]
    span = np.log(candles["high"].to_numpy() / candles["low"].to_numpy())
    columns = np.stack([*returns, span], axis=1)
    assert columns.shape[1] == N_FEATURES
    return columns / np.maximum(columns.std(axis=0), 1e-9)


def play_policy(arena: Arena, market: Market, drawn: TradingRules, seed: int, stake: int, source: str) -> None:
    """The trades of a randomly initialised policy, from its own replay and from freqtrade."""
    mode, lookback = ENTRY_MODES[seed % 3], 1 + seed % 2
    policy, features = random_policy(lookback, seed), market.tape.features
    env = EnvSettings(drawn, RewardSettings(), mode, lookback)
    done = closed_loop.run(
        PolicyDecider(policy, features), market.tape, env, lookback - 1, len(market.tape) - 1, last_candle_closes=True
    )
    script = np.zeros(len(market.tape), dtype=int)
    # The row of a decision closes before the candle that carries it out.
    script[lookback:] = done.actions
    script[-1] = Action.NEUTRAL
    # A replay's columns end the longest duration too; here the strategy's own callback has to.
    expired = [trade.close_ms for trade in done.trades if trade.exit_reason == "max_duration"]
    script[np.isin(market.tape.dates_ms, expired)] = Action.NEUTRAL
    compared = arena.compare(arena.backtester(stake=stake), market, drawn, script, source, "futures")
    assert_same_trades(list(done.trades), compared, drawn)


@pytest.mark.parametrize("seed", range(12))
def test_a_random_policy_makes_the_trades_of_freqtrade_on_synthetic_candles(arena: Arena, seed: int) -> None:
    before = arena.census.n_trades
    for number in range(6):
        drawn = a_scenario(Seeded(10_000 + 10 * seed + number), ["futures"])
        recipe = replace(drawn.recipe, n=500, events=drawn.recipe.events - {"missing candles"})
        random = np.random.default_rng(recipe.seed)
        history = synthetic_history(replace(recipe, funding_hours=8), 100.0)
        signals = random_signals(random, len(history.candles))
        market = history.market(signals=signals, features=features_of(history.candles))
        play_policy(arena, market, drawn.rules, seed, drawn.stake, "policy, synthetic")
    assert arena.census.n_trades > before


# ---------------------------------------------------------------------- real candles


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest, arena: Arena) -> RealPair:
    found = real_pair(request.param, arena.backtester().exchange)
    if found is None:
        pytest.skip("no real candles: set MTFSCALPER_REAL_DATA to a folder with *-5m-futures.feather files")
    return found


def test_trades_on_real_candles_are_those_of_freqtrade_on_the_widest_of_them_too(arena: Arena, pair: RealPair) -> None:
    """Random decisions and random policies around the widest candles, over month ends and anywhere."""
    random = np.random.default_rng(PAIRS.index(pair.name))
    widest, n = pair.widest(WIDEST), len(pair.candles)
    month_end = np.isin(np.arange(n), pair.month_ends())
    kinds = {f"wide {rank}": np.arange(n) == position for rank, position in enumerate(widest)}
    kinds = kinds | {"wide, real": np.isin(np.arange(n), widest), "month end, real": month_end}
    history = replace(pair.history, kinds=kinds)
    stretches = [(position, position - 150, position + 150) for position in widest for _ in range(3)]
    stretches += [(position, position - 100, position + 100) for position in pair.month_ends() for _ in range(2)]
    stretches += [(start + 200, start, start + 400) for start in random.integers(0, n - 400, 10)]
    touched: set[str] = set()
    for number, (position, start, stop) in enumerate(stretches):
        start = max(start, 0)
        drawn = a_scenario(Seeded(1000 * (1 + PAIRS.index(pair.name)) + number), ["futures"])
        market = history.market(start, stop)
        backtester = arena.backtester(stake=drawn.stake)
        script = random_script(random, len(market.tape))
        # Into the candle that the stretch is about, or the one before it.
        short = drawn.rules.can_short and random.random() < 0.5
        script[position - start - number % 2] = Action.SHORT_ENTER if short else Action.LONG_ENTER
        trades = arena.compare(backtester, market, drawn.rules, script, "random, real", "futures")
        touched.update(kind for trade in trades for kind in market.touched(trade.open_ms, trade.close_ms))
        signals = random_signals(random, len(market.tape))
        seen = history.market(start, stop, signals, features_of(market.candles))
        play_policy(arena, seen, drawn.rules, number, drawn.stake, "policy, real")
    assert {f"wide {rank}" for rank in range(WIDEST)} <= touched
    assert "month end, real" in touched


# ---------------------------------------------------------------------- what is refused


def test_freqtrade_alone_would_reverse_within_a_candle_and_the_strategy_refuses(arena: Arena) -> None:
    quiet, crash = (100.0, 100.2, 99.8, 100.0), (100.0, 100.1, 97.5, 97.6)
    candles = candle_table(quiet, quiet, crash, quiet, quiet)
    script = np.array([0, Action.LONG_ENTER, Action.SHORT_ENTER, 0, 0])
    backtester = arena.backtester()
    refused = backtester.run(candles, make_rules(), script)
    assert ([trade.is_short for trade in refused.trades], refused.refused) == ([False], 1)
    confirm = backtester.strategy.confirm_trade_entry
    backtester.strategy.confirm_trade_entry = lambda *args, **kwargs: True
    try:
        reversed_ = backtester.run(candles, make_rules(), script).trades
    finally:
        backtester.strategy.confirm_trade_entry = confirm
    assert [trade.is_short for trade in reversed_] == [False, True]
    assert reversed_[1].open_ms == reversed_[0].close_ms


@pytest.mark.parametrize("leverage", [1.0, 2.0, 5.0, 10.0])
@pytest.mark.parametrize("is_short", [False, True])
@pytest.mark.parametrize("depth", [0.97, 1.1])
def test_a_stop_beyond_liquidation_is_the_liquidation_that_freqtrade_trades(
    arena: Arena, leverage: float, is_short: bool, depth: float
) -> None:
    """Down to the liquidation and not to the stop, or to both in one candle: then freqtrade fills at the stop."""
    backtester = arena.backtester()
    backtester.use(make_rules(stoploss_ratio=0.99, leverage_long=leverage, leverage_short=leverage))
    asker = Asker(backtester.strategy, backtester.config, backtester.exchange)
    side = "short" if is_short else "long"
    ratio = float(asker._liquidations(PAIR, side, np.array([leverage]), np.array([STAKE]))[0])
    assert ratio > 0
    rules = make_rules(
        stoploss_ratio=0.99,
        leverage_long=leverage,
        leverage_short=leverage,
        available_ratio=0.99,
        **STAKES[0],
        **{f"liquidation_{side}": ratio},
    )
    sign = -1 if is_short else 1
    end = max(1000.0 * (1 - sign * depth / leverage), 0.01)
    quiet = (1000.0, 1000.01, 999.99, 1000.0)
    candles = candle_table(quiet, quiet, (1000.0, max(1000.0, end), min(1000.0, end), 1000.0), quiet)
    candles[list(PRICE_COLUMNS)] = candles[list(PRICE_COLUMNS)].round(2)
    script = np.array([0, Action.SHORT_ENTER if is_short else Action.LONG_ENTER, 0, 0])
    trades = arena.compare(backtester, History(candles).market(), rules, script, "liquidation", "futures")
    assert [trade.exit_reason for trade in trades] == ["stop_loss" if depth > 1 else "liquidation"]


def test_a_fixed_stake_that_the_wallet_no_longer_holds_enters_no_more(tmp_path: Path, arena: Arena) -> None:
    backtester = Backtester(tmp_path, fixed_stake_ratio=0.95)
    stops = [(100.0, 100.2, 99.8, 100.0), (100.0, 100.1, 97.5, 100.0)] * 10
    candles = candle_table((100.0, 100.01, 99.99, 100.0), *stops, stops[0])
    script = np.array([0, *[Action.LONG_ENTER, 0] * 10, 0])
    fixed = make_rules(stake_ratio=0.99, available_ratio=0.99, fixed_stake_ratio=0.95)
    expected = backtester.run(candles, fixed, script)
    trades, profits, equity = play_tape(make_tape(candles), fixed, script)
    assert_same_trades(trades, expected.trades, fixed)
    # Each stop loses 2.1 % of 0.95: after the third, 0.99 of what is left is less than 0.95.
    assert len(trades) == 3
    np.testing.assert_allclose(profits, expected.profits, rtol=1e-12)
    assert equity == pytest.approx(expected.wallet, rel=1e-12)


def test_a_last_order_that_freqtrade_never_fills_is_filled_here_as_an_episode_ends_flat(arena: Arena) -> None:
    coarse, fine = (100.0, 100.2, 99.8, 100.1), (100.257, 100.261, 100.251, 100.253)
    candles = candle_table(coarse, coarse, fine, start="2024-01-31 23:50")
    script = np.array([0, Action.LONG_ENTER, 0])
    expected = arena.backtester().run(candles, make_rules(), script)
    ((trade,), *_) = play_tape(make_tape(candles), make_rules(), script)
    # The trade keeps January's tick of 0.1, and 100.3 lies above February's candle.
    assert (expected.trades, expected.left_open) == ([], True)
    assert (trade.exit_reason, trade.close_rate) == ("force_exit", 100.3)


# ---------------------------------------------------------------------- all of it


def test_enough_trades_of_every_kind_were_compared(arena: Arena) -> None:
    census = arena.census
    if census.counts["source"]["random, synthetic"] == 0:
        pytest.skip("counts what the tests before it compared: run the whole file")
    census.require("exit reason", EXIT_REASONS, 200)
    census.require("source", ("policy, synthetic",), 3000)
    if census.counts["source"]["random, real"]:
        census.require("source", ("random, real", "policy, real"), 1500)
        census.require("candles", ("wide, real", "month end, real"), 50)
    assert census.n_trades >= 20_000, census.table("all")
