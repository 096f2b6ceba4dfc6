"""What is trained is what will be traded: fee, leverage, stop, ROI and durations come from config and strategy."""

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from freqtrade.enums import RunMode, TradingMode
from freqtrade.exceptions import OperationalException

from mtfscalper.freqai.entry_terms import EntryTerms
from mtfscalper.freqai.strategy_rules import fee_ratio, rules_of_strategy, settings_of_config
from mtfscalper.settings import RLSettings, Settings
from mtfscalper.trading.trading_rules import RulesError, TradingRules

PAIR = "BTC/USDT:USDT"
FUTURES: dict[str, Any] = {"trading_mode": TradingMode.FUTURES, "stake_currency": "USDT", "dry_run_wallet": 10_000}


class StubStrategy:
    """Only what the rules are read from."""

    timeframe = "5m"
    use_exit_signal = True
    can_short = True
    stoploss = -0.02
    minimal_roi: dict[int, float] = {120: 0.02, 0: 0.04, 360: 0.01}  # noqa: RUF012
    trailing_stop = False
    trailing_stop_positive = None
    trailing_stop_positive_offset = 0.0
    trailing_only_offset_is_reached = False
    max_open_trades = 1
    asked_leverage = 3.0

    def __init__(self, **values: Any) -> None:
        self.sides: list[str] = []
        for name, value in values.items():
            setattr(self, name, value)

    def leverage(self, *, side: str, max_leverage: float, **kwargs: Any) -> float:
        self.sides.append(side)
        return self.asked_leverage if side == "long" else self.asked_leverage - 1


class StubExchange:
    """Fees and tiers as an exchange gives them."""

    def __init__(self, taker: float | None = 0.0005, maker: float = 0.0002, largest: float = 20.0) -> None:
        self.fees = {"taker": taker, "maker": maker}
        self.largest = largest
        self.stakes: list[float] = []

    def get_fee(self, symbol: str, taker_or_maker: str) -> float | None:
        assert symbol == PAIR
        return self.fees[taker_or_maker]

    def get_max_leverage(self, pair: str, stake_amount: float) -> float:
        self.stakes.append(stake_amount)
        return self.largest

    def get_maintenance_ratio_and_amt(self, pair: str, stake_amount: float) -> tuple[float, float]:
        self.stakes.append(stake_amount)
        return 0.004, 0.0


# What the stub says of its trades; tests/parity/test_terms_of_trades.py and test_as_traded.py show how it is asked.
TERMS = EntryTerms(leverage=(3.0, 2.0), liquidation=(0.0, 0.0), stake_factor=1.0, columns=pd.DataFrame())


def rules(
    config: dict[str, Any] | None = None,
    strategy: StubStrategy | None = None,
    exchange: StubExchange | None = None,
    rl: RLSettings | None = None,
    terms: EntryTerms | None = TERMS,
) -> TradingRules:
    return rules_of_strategy(
        strategy or StubStrategy(),
        FUTURES | (config or {}),
        exchange or StubExchange(),
        PAIR,
        rl or RLSettings(),  # type: ignore[arg-type]
        terms,
    )


def test_every_rule_comes_from_the_strategy_or_the_config() -> None:
    strategy = StubStrategy(
        stoploss=-0.03,
        trailing_stop=True,
        trailing_stop_positive=0.005,
        trailing_stop_positive_offset=0.01,
        trailing_only_offset_is_reached=True,
    )
    rl = RLSettings(max_trade_duration_candles=48, max_training_drawdown_pct=0.3)
    read = rules({"tradable_balance_ratio": 0.5}, strategy, rl=rl)
    assert read == TradingRules(
        fee_ratio=0.0005,
        stoploss_ratio=0.03,
        max_trade_duration_candles=48,
        timeframe_minutes=5,
        leverage_long=3.0,
        leverage_short=2.0,
        minimal_roi=((0, 0.04), (120, 0.02), (360, 0.01)),
        trailing_stop=True,
        trailing_stop_positive=0.005,
        trailing_stop_positive_offset=0.01,
        trailing_only_offset_is_reached=True,
        can_short=True,
        stake_ratio=0.5,
        available_ratio=0.5,
        max_drawdown_ratio=0.3,
    )


def test_rules_can_be_hashed_for_the_manifest() -> None:
    # TradingRules is frozen; a list inside would break that.
    assert isinstance(hash(rules()), int)


def test_the_fee_is_the_dearer_of_taker_and_maker_as_in_the_backtester() -> None:
    assert fee_ratio({}, StubExchange(taker=0.0005, maker=0.0002), PAIR) == 0.0005
    assert fee_ratio({}, StubExchange(taker=0.0001, maker=0.0002), PAIR) == 0.0002
    assert fee_ratio({}, StubExchange(taker=None, maker=0.0002), PAIR) == 0.0002


@pytest.mark.parametrize(("runmode", "asked"), [(RunMode.BACKTEST, "ETH/USDT:USDT"), (RunMode.DRY_RUN, PAIR)])
def test_a_backtest_takes_the_fee_of_the_runs_first_pair_for_all_and_a_bot_each_pairs_own(
    runmode: RunMode, asked: str
) -> None:
    fees = {"ETH/USDT:USDT": 0.001, PAIR: 0.003}
    exchange: Any = SimpleNamespace(get_fee=lambda symbol, taker_or_maker: fees[symbol])
    config = {"runmode": runmode, "exchange": {"pair_whitelist": list(fees)}}
    assert rules(config, exchange=exchange).fee_ratio == fees[asked]


@pytest.mark.parametrize("fee", [0.001, 0.0])
def test_the_configs_own_fee_comes_first(fee: float) -> None:
    assert rules({"fee": fee}).fee_ratio == fee


def test_a_fee_of_none_in_the_config_means_the_exchanges() -> None:
    assert rules({"fee": None}).fee_ratio == 0.0005


def test_a_wallet_of_several_currencies_counts_the_stake_currency() -> None:
    assert rules({"dry_run_wallet": {"USDT": 500, "BTC": 2}, "stake_amount": 100}).fixed_stake_ratio == 0.2


@pytest.mark.parametrize("slots", [1, 2, 10])
def test_an_unlimited_stake_is_one_slots_share(slots: int) -> None:
    read = rules({"stake_amount": "unlimited", "max_open_trades": slots, "tradable_balance_ratio": 0.9})
    assert (read.stake_ratio, read.fixed_stake_ratio, read.available_ratio) == (0.9 / slots, None, 0.9)


def test_a_stake_of_the_strategys_own_is_bounded_by_what_is_available() -> None:
    factor = TERMS._replace(stake_factor=3.0)
    config = {"stake_amount": "unlimited", "max_open_trades": 2, "tradable_balance_ratio": 0.9}
    assert rules(config, terms=factor).stake_ratio == 0.9
    assert rules({"stake_amount": 1000}, terms=factor).fixed_stake_ratio == pytest.approx(0.3)


def test_the_stake_is_a_share_of_the_wallet_or_the_configs_own_amount() -> None:
    assert rules({"stake_amount": "unlimited"}).fixed_stake_ratio is None
    # 2,500 of 10,000.
    assert rules({"stake_amount": 2500}).fixed_stake_ratio == 0.25


def test_a_stake_that_the_wallet_does_not_hold_is_refused() -> None:
    with pytest.raises(RulesError, match=r"stake_amount is 9600.0, .*accepted: up to 9500 .*; remedy: lower it"):
        rules({"stake_amount": 9600.0, "tradable_balance_ratio": 0.95})


def test_a_live_wallet_is_not_the_configs_and_holds_one_stake_at_the_least() -> None:
    config = {"stake_amount": 50_000, "tradable_balance_ratio": 0.95, "dry_run": False}
    assert rules(config).fixed_stake_ratio == 0.95


def test_a_strategy_without_exit_signals_is_refused() -> None:
    with pytest.raises(RulesError, match=r"use_exit_signal is False.*accepted: True; remedy: set it"):
        rules(strategy=StubStrategy(use_exit_signal=False))


def test_a_longest_duration_of_the_strategys_own_is_refused_with_both_values() -> None:
    strategy = StubStrategy(max_trade_duration_candles=48)
    with pytest.raises(RulesError, match=r"max_trade_duration_candles is 48 and .*is 96; accepted: one value"):
        rules(strategy=strategy)
    assert rules(strategy=strategy, rl=RLSettings(max_trade_duration_candles=48)).max_trade_duration_candles == 48


def test_wrong_settings_are_an_error_freqtrade_prints_and_stops_at() -> None:
    config = {"freqai": {"rl_config": {"n_envs": 0}}}
    with pytest.raises(OperationalException, match=r"cannot be used:\nfreqai\.rl_config\.n_envs is 0; accepted: "):
        settings_of_config(config)
    assert settings_of_config({}) == Settings.from_config({})


def test_wrong_arguments_of_another_algorithm_stand_in_the_same_message_as_other_wrong_settings() -> None:
    freqai = {"conv_width": 0, "rl_config": {"model_type": "DQN"}, "model_training_parameters": {"bufer_size": 100}}
    with pytest.raises(OperationalException) as caught:
        settings_of_config({"freqai": freqai})
    _, *complaints = str(caught.value).splitlines()
    assert [complaint.split(" is ")[0] for complaint in complaints] == [
        "freqai.conv_width",
        "freqai.model_training_parameters.bufer_size",
    ]
    assert "did you mean 'buffer_size'?" in complaints[1]
