"""What limits and lots make of a stake, and the limits that a strategy is handed, are freqtrade's own."""

from typing import Any

import numpy as np
import pytest
from builders import candle_table, make_rules, random_candles
from parity.backtester import PAIR, STAKE, WALLET, Backtester

from mtfscalper.freqai.entry_terms import Asker, Stake
from mtfscalper.freqai.stake_limits import BACKTESTS_STOP, StakeLimits
from mtfscalper.trading.actions import Action

AVAILABLE = 0.99 * WALLET
STAKED = Stake(STAKE, AVAILABLE)
QUIET = (100.0, 100.2, 99.8, 100.01)


@pytest.fixture
def backtester(tmp_path: Any) -> Backtester:
    # A market of its own: the tests change it.
    backtester = Backtester(tmp_path)
    market = backtester.exchange._markets[PAIR]
    market["limits"] = {name: dict(limits) for name, limits in market["limits"].items()}
    market["precision"] = dict(market["precision"])
    return backtester


def limit(backtester: Backtester, **limits: Any) -> None:
    """Set the market's lot, and its limits by kind and end."""
    market = backtester.exchange._markets[PAIR]
    market["precision"]["amount"] = limits.pop("lot", 1e-12)
    for name, value in limits.items():
        kind, end = name.split("_")
        market["limits"][kind][end] = value


def entered(backtester: Backtester, rate: float, leverage: float) -> float:
    """What freqtrade stakes on a trade at a rate."""
    rules = make_rules(leverage_long=leverage)
    candles = candle_table(QUIET, (rate, rate, rate, rate), (rate, rate, rate, rate))
    results = backtester.run(candles, rules, np.array([0, Action.LONG_ENTER, 0])).results
    return float(results["stake_amount"].sum()) if len(results) else 0.0


def test_limits_and_lots_make_of_a_stake_what_freqtrade_makes_of_it(backtester: Backtester) -> None:
    kinds = {"raised": 0, "refused": 0, "lowered": 0, "kept": 0}
    for seed in range(80):
        rng = np.random.default_rng(seed)
        rate, leverage = float(np.round(10 ** rng.uniform(-2, 5), 2)), float(rng.choice([1.0, 3.0, 7.5]))
        notional = STAKE * leverage
        some = {
            "cost_min": notional * rng.uniform(0.5, 1.5),
            "cost_max": notional * rng.uniform(0.3, 1.5),
            "amount_min": notional / rate * rng.uniform(0.5, 1.5),
            "amount_max": notional / rate * rng.uniform(0.3, 1.5),
            "lot": notional / rate * rng.uniform(0.05, 1.2),
        }
        chosen = {name: float(some[name]) if rng.random() < 0.3 else None for name in some}
        # A lot of two digits: freqtrade truncates an amount twice, and one of many digits to a lot less.
        chosen["lot"] = float(f"{chosen['lot'] or 1e-12:.1g}")
        limit(backtester, **chosen)
        ours = StakeLimits(backtester.exchange, PAIR, BACKTESTS_STOP).entered(rate, leverage, STAKE, AVAILABLE)
        assert ours == pytest.approx(entered(backtester, rate, leverage), rel=1e-9), chosen
        share = ours / STAKE
        kinds["refused" if share == 0 else "raised" if share > 1.001 else "lowered" if share < 0.999 else "kept"] += 1
    assert min(kinds.values()) >= 3, kinds


def test_a_smallest_stake_that_a_strategy_takes_is_the_one_that_freqtrade_hands_it(backtester: Backtester) -> None:
    strategy = backtester.strategy
    backtester.use(make_rules(leverage_long=2.0, leverage_short=2.0))
    limit(backtester, cost_min=STAKE, amount_min=STAKE / 150)

    def custom_stake_amount(self: Any, *arguments: Any, min_stake: float, **more: Any) -> float:
        return min_stake

    made = type("Smallest", (type(strategy),), {"custom_stake_amount": custom_stake_amount})
    strategy.__class__ = made
    candles = random_candles(1, 50)
    strategy.terms, strategy.actions = None, np.full(50, Action.NEUTRAL)
    terms = Asker(strategy, backtester.config, backtester.exchange).terms(PAIR, candles, STAKED)
    script = np.full(50, Action.NEUTRAL)
    script[10] = Action.LONG_ENTER
    outcome = backtester.run(candles, make_rules(leverage_long=2.0, leverage_short=2.0), script)
    assert terms.stake_factor * STAKE == pytest.approx(float(outcome.results["stake_amount"].iloc[0]))


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"cost_min": 1.5 * STAKE}, "no trade is entered with a stake of 1e+06 USDT at the rate"),
        ({"amount_max": STAKE / 400}, "becomes of a stake of 1e+06 USDT at the rate"),
        ({"lot": STAKE / 100}, "by the exchange's limits and lots no trade is entered with a stake"),
        # At 100 a lot is 2.5 % of the stake.
        ({"lot": STAKE / 4000}, None),
        ({"cost_min": 0.5 * STAKE, "cost_max": 2 * STAKE}, None),
    ],
)
def test_a_stake_that_is_changed_is_named_once_for_a_side(
    backtester: Backtester, limits: dict[str, float], told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    backtester.use(make_rules())
    limit(backtester, **limits)
    strategy, candles = backtester.strategy, random_candles(3, 60)
    strategy.terms, strategy.actions = None, np.full(60, Action.NEUTRAL)
    asker = Asker(strategy, backtester.config, backtester.exchange)
    for _ in range(2):
        asker.terms(PAIR, candles, STAKED)
    messages = [record.getMessage() for record in caplog.records if "limits and lots" in record.getMessage()]
    assert len(messages) == (0 if told is None else 2)
    assert all(told in message for message in messages if told is not None)
    assert all(f"({side})" in message for side, message in zip(("long", "short"), messages, strict=False))


NUMBER = {"stake_amount": STAKE}


@pytest.mark.parametrize(
    ("leverage", "stop", "largest", "second", "config", "told"),
    [
        # The first tier ends at a stake of 1.5 times the first.
        (
            10.0,
            0.02,
            10.0,
            {"maxLeverage": 5.0},
            {},
            "with 2 times the wallet a long gets leverage 5 at most, at first 10",
        ),
        # Here at one of 0.75, so that the second holds at first.
        (
            20.0,
            0.02,
            20.0,
            {"maxLeverage": 5.0},
            {},
            "with 0.5 times the wallet a long gets leverage 20 at most, at first 5",
        ),
        (10.0, 0.02, 10.0, None, {}, "with 2 times the wallet its tiers end, and no long is entered"),
        # (2 - 20) / (20 * 0.05 - 20) = 0.9474 and (1 - 10) / (10 * 0.004 - 10) = 0.9036, a twentieth nearer to 1.
        # freqtrade looks a maintenance margin up by the stake alone.
        (
            *(10.0, 0.95, 10.0, {"maintenanceMarginRate": 0.05, "minNotional": 1.5 * STAKE}, {}),
            "with 2 times the wallet a long is liquidated 5.0 % from its entry rate, at first 9.2 %",
        ),
        # The stop comes first in both.
        (10.0, 0.02, 10.0, {"maintenanceMarginRate": 0.05, "minNotional": 1.5 * STAKE}, {}, None),
        (4.0, 0.02, 10.0, {"maxLeverage": 5.0}, {}, None),
        (10.0, 0.02, 10.0, {"maxLeverage": 5.0}, NUMBER, None),
        (10.0, 0.02, 10.0, {"maxLeverage": 5.0}, {"trading_mode": "spot"}, None),
    ],
)
def test_tiers_that_a_changing_wallet_reaches_are_named_once_for_a_side(
    backtester: Backtester,
    leverage: float,
    stop: float,
    largest: float,
    second: dict[str, float] | None,
    config: dict[str, Any],
    told: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    exchange, strategy, candles = backtester.exchange, backtester.strategy, random_candles(3, 60)
    (tier,) = exchange._leverage_tiers[PAIR]
    end = 15 * STAKE
    tiers = [tier | {"maxLeverage": largest, "maxNotional": end}]
    if second is not None:
        tiers.append(tier | {"maxLeverage": 10.0, "minNotional": end} | second)
    exchange._leverage_tiers[PAIR] = tiers
    backtester.use(make_rules(leverage_long=leverage, leverage_short=leverage, stoploss_ratio=stop))
    strategy.terms, strategy.actions = None, np.full(60, Action.NEUTRAL)
    asker = Asker(strategy, backtester.config | {"stake_amount": "unlimited"} | config, exchange)
    for _ in range(2):
        asker.terms(PAIR, candles, STAKED)
    messages = [record.getMessage() for record in caplog.records if "stakes follow the wallet" in record.getMessage()]
    assert len(messages) == (0 if told is None else 2)
    assert told is None or told in messages[0]
