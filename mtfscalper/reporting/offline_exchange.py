"""The exchange of a run, as far as it can be had without a network: freqtrade's own class over markets made here."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from freqtrade.enums import MarginMode, RunMode, TradingMode
from freqtrade.exchange import Binance, Exchange
from freqtrade.exchange.exchange_types import LeverageTier
from freqtrade.resolvers import ExchangeResolver

from mtfscalper.reporting.run_result import RunResult

# Steps so small that neither rates nor amounts are rounded by them: the steps of rates are seen in the candles.
_STEP = 1e-8
# What a future's taker pays on Binance.
_USUAL_FEE = 0.0005
_NO_LIMIT = {"min": None, "max": None}
# For an exchange whose tiers do not come with freqtrade.
_TIER: LeverageTier = {
    "minNotional": 0.0,
    "maxNotional": 1e15,
    "maintenanceMarginRate": 0.004,
    "maxLeverage": 125.0,
    "maintAmt": 0.0,
}


def config_of_run(result: RunResult, **changes: Any) -> dict[str, Any]:
    """The config of a run for freqtrade's classes, with what was in force; nobody is asked for anything.

    :param changes: keys to override
    """
    stats, config = result.stats, deepcopy(dict(result.config))
    config.pop("config_files", None)
    exchange = {"name": config["exchange"]["name"], "pair_whitelist": result.pairs, "pair_blacklist": []}
    return {
        **config,
        "runmode": RunMode.BACKTEST,
        "dry_run": True,
        "dry_run_wallet": stats.get("dry_run_wallet", stats["starting_balance"]),
        "exchange": {**exchange, "enable_ws": False, "key": "", "secret": ""},
        "pairlists": [{"method": "StaticPairList"}],
        "strategy": result.strategy,
        "timeframe": result.timeframe,
        "timeframe_detail": stats.get("timeframe_detail") or "",
        "timerange": stats.get("timerange"),
        "trading_mode": TradingMode(stats.get("trading_mode", "spot")),
        "margin_mode": MarginMode(stats.get("margin_mode") or ""),
        "candle_type_def": result.candle_type,
        "stake_amount": stats["stake_amount"],
        "stake_currency": stats["stake_currency"],
        "max_open_trades": result.slots,
        "enable_protections": bool(stats.get("enable_protections", False)),
        "fee": fee_of_run(result),
        "export": "none",
        "datadir": result.datadir,
        "user_data_dir": result.user_data_dir,
        "exportdirectory": Path(),
        "dataformat_ohlcv": result.data_format,
        "dataformat_trades": config.get("dataformat_trades", "feather"),
        "internals": {},
        **changes,
    }


def fee_of_run(result: RunResult) -> float:
    """The fee of each side that most trades paid; without trades the config's, else five basis points."""
    if len(result.trades):
        return float(result.trades["fee_open"].median())
    return float(result.config.get("fee") or _USUAL_FEE)


def offline_exchange(config: dict[str, Any], pairs: list[str]) -> Exchange:
    """freqtrade's class for the exchange of a config, with a market for each pair and without a connection."""
    exchange = ExchangeResolver.load_exchange(config, validate=False)
    is_futures = config["trading_mode"] == TradingMode.FUTURES
    exchange._markets = {pair: _market(pair, config["fee"], is_futures=is_futures) for pair in pairs}
    if is_futures:
        if isinstance(exchange, Binance):
            # Its tiers come with freqtrade; others would be asked for theirs.
            exchange.fill_leverage_tiers()
        exchange._leverage_tiers = {pair: exchange._leverage_tiers.get(pair, [_TIER]) for pair in pairs}
    return exchange


def _market(pair: str, fee: float, *, is_futures: bool) -> dict[str, Any]:
    base, _, rest = pair.partition("/")
    quote, _, settle = rest.partition(":")
    return {
        "id": f"{base}{quote}",
        "symbol": pair,
        "base": base,
        "quote": quote,
        "settle": settle or None,
        "type": "swap" if is_futures else "spot",
        "active": True,
        "spot": not is_futures,
        "margin": False,
        "swap": is_futures,
        "future": is_futures,
        "contract": is_futures,
        "linear": is_futures or None,
        "inverse": False if is_futures else None,
        "contractSize": 1.0 if is_futures else None,
        "taker": fee,
        "maker": fee,
        "precision": {"amount": _STEP, "price": _STEP},
        "limits": {"amount": _NO_LIMIT, "cost": _NO_LIMIT, "price": _NO_LIMIT, "leverage": _NO_LIMIT},
        "info": {},
    }
