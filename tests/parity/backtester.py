"""freqtrade's own ``Backtesting``, run in this process on the candles and decisions of a test."""

from datetime import UTC
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.data.btanalysis.historic_precision import get_tick_size_over_time
from freqtrade.enums import RunMode
from freqtrade.exchange import Exchange
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.persistence import LocalTrade
from freqtrade.resolvers import ExchangeResolver

from mtfscalper.settings import RLSettings
from mtfscalper.trading.trades import ClosedTrade
from mtfscalper.trading.trading_rules import TradingRules

PAIR = "BTC/USDT:USDT"
WALLET = 1e9
# Ample beside the eight decimals to which freqtrade rounds a profit, so that ratios keep twelve.
STAKE = 1e6

MARKET: dict[str, Any] = {
    "id": "BTCUSDT",
    "symbol": PAIR,
    "base": "BTC",
    "quote": "USDT",
    "settle": "USDT",
    "type": "swap",
    "active": True,
    "spot": False,
    "margin": False,
    "swap": True,
    "future": False,
    "contract": True,
    "linear": True,
    "inverse": False,
    "contractSize": 1.0,
    "taker": 0.0005,
    "maker": 0.0002,
    # A lot so small that amounts are continuous.
    "precision": {"amount": 1e-12, "price": 1e-8},
    "limits": {
        "amount": {"min": 1e-12, "max": None},
        "cost": {"min": None, "max": None},
        "price": {"min": None, "max": None},
        "leverage": {"min": 1.0, "max": 125.0},
    },
    "info": {},
}

TIER = {"minNotional": 0, "maxNotional": 1e15, "maintenanceMarginRate": 0.004, "maxLeverage": 125.0, "maintAmt": 0.0}


class Outcome(NamedTuple):
    """What a backtest gave.

    :ivar trades: in the order they closed
    :ivar wallet: the final wallet over the first
    :ivar profits: ``profit_abs`` of the trades over the first wallet
    :ivar left_open: whether the order that should have closed the last trade was never filled
    :ivar refused: entries that ``confirm_trade_entry`` refused
    :ivar results: the trades as freqtrade has them
    """

    trades: list[ClosedTrade]
    wallet: float
    profits: list[float]
    left_open: bool
    refused: int
    results: pd.DataFrame


def as_closed_trades(results: pd.DataFrame) -> list[ClosedTrade]:
    """freqtrade's trades as records of this package, in the order of its results."""
    return [
        ClosedTrade(
            pair=trade.pair,
            is_short=trade.is_short,
            open_ms=trade.open_date.value // 10**6,
            close_ms=trade.close_date.value // 10**6,
            open_rate=trade.open_rate,
            close_rate=trade.close_rate,
            exit_reason=trade.exit_reason,
            profit_ratio=trade.profit_ratio,
        )
        for trade in results.itertuples()
    ]


class Backtester:
    """A backtester without a network: one market of Binance, a wallet, a scripted strategy.

    :param datadir: an empty directory
    :param stake_ratio: share of the wallet that may be staked
    :param fixed_stake_ratio: the stake of every trade as a share of the first wallet; None stakes all that may be
    :param tick: the exchange's price tick, for months whose candles show no decimals
    :param timeframe: of the candles
    """

    def __init__(
        self,
        datadir: Path,
        *,
        stake_ratio: float = 0.99,
        fixed_stake_ratio: float | None = STAKE / WALLET,
        spot: bool = False,
        tick: float = 1e-8,
        timeframe: str = "5m",
    ) -> None:
        self._spot = spot
        config: dict[str, Any] = {
            "runmode": RunMode.HYPEROPT,
            "dry_run": True,
            "dry_run_wallet": WALLET,
            "stake_currency": "USDT",
            "stake_amount": "unlimited" if fixed_stake_ratio is None else fixed_stake_ratio * WALLET,
            "tradable_balance_ratio": stake_ratio,
            "amend_last_stake_amount": False,
            "last_stake_amount_min_ratio": 0.5,
            "max_open_trades": 1,
            "timeframe": timeframe,
            "trading_mode": "spot" if spot else "futures",
            "margin_mode": "" if spot else "isolated",
            "fee": 0.0005,
            "exchange": {"name": "binance", "pair_whitelist": [PAIR], "enable_ws": False},
            "pairlists": [{"method": "StaticPairList"}],
            # As in configs/config_rl_hybrid.json: an order that its candle does not fill is gone at the next.
            "unfilledtimeout": {"entry": 5, "exit": 5, "unit": "minutes"},
            "entry_pricing": {"price_side": "other", "use_order_book": False},
            "exit_pricing": {"price_side": "other", "use_order_book": False},
            "strategy": "LongScriptedStrategy" if spot else "ScriptedStrategy",
            "strategy_path": str(Path(__file__).parent),
            "user_data_dir": datadir,
            "datadir": datadir,
            "dataformat_ohlcv": "feather",
            "dataformat_trades": "feather",
            "internals": {},
        }
        exchange = ExchangeResolver.load_exchange(config, validate=False)
        precision = MARKET["precision"] | {"price": tick}
        kind = {"type": "spot" if spot else "swap", "spot": spot, "swap": not spot, "future": not spot}
        contract = {"contract": not spot, "linear": not spot, "contractSize": None if spot else 1.0}
        exchange._markets = {PAIR: MARKET | kind | contract | {"precision": precision}}
        exchange._leverage_tiers = {PAIR: [TIER]}
        self.config = config
        self._backtesting = Backtesting(config, exchange)
        self._backtesting._set_strategy(self._backtesting.strategylist[0])
        strategy = self._backtesting.strategy
        confirm = strategy.confirm_trade_entry

        def confirm_trade_entry(*arguments: Any, **keywords: Any) -> bool:
            confirmed = confirm(*arguments, **keywords)
            strategy.refused += not confirmed
            return confirmed

        strategy.confirm_trade_entry = confirm_trade_entry

    @property
    def exchange(self) -> Exchange:
        return self._backtesting.exchange

    @property
    def strategy(self) -> Any:
        return self._backtesting.strategy

    def use(self, rules: TradingRules) -> None:
        """Let the strategy trade under these rules."""
        backtesting, strategy = self._backtesting, self._backtesting.strategy
        strategy.stoploss = -rules.stoploss_ratio
        strategy.minimal_roi = dict(rules.minimal_roi)
        strategy.trailing_stop = rules.trailing_stop
        strategy.trailing_stop_positive = rules.trailing_stop_positive
        strategy.trailing_stop_positive_offset = rules.trailing_stop_positive_offset
        strategy.trailing_only_offset_is_reached = rules.trailing_only_offset_is_reached
        strategy.can_short = backtesting._can_short = rules.can_short and not self._spot
        strategy.leverage_long, strategy.leverage_short = rules.leverage_long or 1.0, rules.leverage_short or 1.0
        strategy.rl_settings = RLSettings(max_trade_duration_candles=rules.max_trade_duration_candles)
        backtesting.fee = rules.fee_ratio

    def run(
        self,
        candles: pd.DataFrame,
        rules: TradingRules,
        actions: np.ndarray,
        funding: pd.DataFrame | None = None,
        ticks: pd.Series | None = None,
        terms: pd.DataFrame | None = None,
    ) -> Outcome:
        """Backtest a script.

        :param candles: date, open, high, low, close, volume
        :param actions: decision at the open of every candle, members of ``Action``
        :param funding: date, open_mark and open_fund at the funding times, None for no funding
        :param ticks: tick by month, None for what these candles show
        :param terms: what the strategy says of its trades at each candle: ``date`` and columns of a tape
        """
        self.use(rules)
        backtesting, strategy = self._backtesting, self._backtesting.strategy
        strategy.actions, strategy.refused, strategy.terms = actions, 0, terms
        backtesting.timerange = TimeRange()
        backtesting.price_pair_prec = {PAIR: get_tick_size_over_time(candles.copy()) if ticks is None else ticks}
        backtesting.funding_fee_timeframe_secs = 3600
        no_funding = pd.DataFrame({"date": candles["date"].iloc[:0], "open_mark": [], "open_fund": []})
        backtesting.futures_data = {
            PAIR: backtesting.exchange._add_funding_columns((no_funding if funding is None else funding).copy())
        }
        first, last = (candles["date"].iloc[row].to_pydatetime().astimezone(UTC) for row in (0, -1))
        outcome = backtesting.backtest({PAIR: candles.copy()}, first, last)
        return Outcome(
            trades=as_closed_trades(outcome["results"]),
            wallet=outcome["final_balance"] / WALLET,
            profits=[trade.profit_abs / WALLET for trade in outcome["results"].itertuples()],
            left_open=bool(LocalTrade.bt_trades_open),
            refused=strategy.refused,
            results=outcome["results"],
        )
