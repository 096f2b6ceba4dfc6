"""The rules that ended a run's trades: what its export says was in force, and what it does not say."""

from __future__ import annotations

from typing import NamedTuple

from freqtrade.exchange import timeframe_to_minutes
from freqtrade.strategy import IStrategy

from mtfscalper.freqai.policy_exits import PolicyExits
from mtfscalper.freqai.run_plan import RunPlan
from mtfscalper.reporting.run_result import RunResult
from mtfscalper.trading.trading_rules import TradingRules

# Longer than any data lasts.
_UNLIMITED = 10**9


class RunRules(NamedTuple):
    """What ends the trades of a run that nobody else ends.

    :ivar by_pair: the rules of each pair
    :ivar unknown: what could end a trade beside them, or is not known of them, one sentence each
    """

    by_pair: dict[str, TradingRules]
    unknown: tuple[str, ...]


def rules_of_run(
    result: RunResult, fee_ratio: float, plans: dict[str, RunPlan], strategy: IStrategy | None
) -> RunRules:
    """Read the rules of a run.

    :param fee_ratio: of each side
    :param plans: of the run's policies, by pair
    :param strategy: as it is now; None where it cannot be loaded
    """
    stats = result.stats
    duration, unknown = _duration(plans, strategy), []
    if duration is None:
        duration = _UNLIMITED
        unknown.append("no longest duration is known: a trade that meets neither stop nor ROI lives to the last candle")
    by_pair = {}
    for pair in result.pairs:
        trained = plans[pair].terms.rules if pair in plans else None
        by_pair[pair] = TradingRules(
            fee_ratio=fee_ratio,
            stoploss_ratio=min(abs(float(stats["stoploss"])), 1.0),
            max_trade_duration_candles=duration,
            timeframe_minutes=timeframe_to_minutes(result.timeframe),
            minimal_roi=tuple(sorted((int(start), float(ratio)) for start, ratio in stats["minimal_roi"].items())),
            trailing_stop=bool(stats["trailing_stop"]),
            trailing_stop_positive=stats["trailing_stop_positive"],
            trailing_stop_positive_offset=float(stats["trailing_stop_positive_offset"] or 0.0),
            trailing_only_offset_is_reached=bool(stats["trailing_only_offset_is_reached"]),
            liquidation_long=trained.liquidation_long if trained else 0.0,
            liquidation_short=trained.liquidation_short if trained else 0.0,
        )
    unknown += _not_relived(result, plans)
    return RunRules(by_pair, tuple(unknown))


def _duration(plans: dict[str, RunPlan], strategy: IStrategy | None) -> int | None:
    """The longest duration: of the policies' training, or of the strategy."""
    if plans:
        return max(plan.terms.rules.max_trade_duration_candles for plan in plans.values())
    own = getattr(strategy, "max_trade_duration_candles", None)
    if own is not None:
        return int(own)
    return int(strategy.rl_settings.max_trade_duration_candles) if isinstance(strategy, PolicyExits) else None


def _not_relived(result: RunResult, plans: dict[str, RunPlan]) -> list[str]:
    """What ends trades in freqtrade and no re-lived one."""
    stats, trades = result.stats, result.trades
    found = []
    if stats.get("use_custom_stoploss"):
        found.append("the strategy's custom_stoploss is not re-lived: the stop stays where it is at the entry")
    if stats.get("ignore_roi_if_entry_signal"):
        found.append("ignore_roi_if_entry_signal is not re-lived: ROI ends a trade whatever the entry signal says")
    if stats.get("timeframe_detail"):
        found.append(f"timeframe_detail {stats['timeframe_detail']} is not re-lived: candles of {result.timeframe} are")
    if len(trades) and "orders" in trades:
        adjusted = int(sum(isinstance(orders, list) and len(orders) > 2 for orders in trades["orders"]))
        if adjusted:
            found.append(f"{adjusted} trades changed their size on the way; each is re-lived at its mean entry rate")
    leverage = float(trades["leverage"].max()) if len(trades) else 1.0
    if result.is_futures and not plans and leverage > 1 and abs(float(stats["stoploss"])) > 0.8:
        found.append(f"liquidation is not re-lived: leverage is up to {leverage:g} and the stop far away")
    return found
