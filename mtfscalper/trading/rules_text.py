"""The rules of a trade as a sentence."""

from __future__ import annotations

from mtfscalper.trading.trading_rules import TradingRules


def rules_text(rules: TradingRules) -> str:
    """What a trade costs and what ends it, in words; rules that do not apply are left out."""
    said = [
        f"fee {_percent(rules.fee_ratio)} a side",
        _stake(rules),
        _leverage(rules),
        f"stop at -{_percent(rules.stoploss_ratio)}",
        _trailing(rules),
        _roi(rules),
        f"at most {rules.max_trade_duration_candles} candles "
        f"({rules.max_trade_duration_candles * rules.timeframe_minutes / 60:g} h)",
        "" if rules.can_short else "longs alone",
        _liquidation(rules),
        f"an episode ends {_percent(rules.max_drawdown_ratio)} below its peak",
    ]
    return "; ".join(filter(None, said))


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.4g} %"


def _stake(rules: TradingRules) -> str:
    if rules.fixed_stake_ratio is not None:
        return f"stake {_percent(rules.fixed_stake_ratio)} of the first equity"
    return f"stake {_percent(rules.stake_ratio)} of the equity"


def _leverage(rules: TradingRules) -> str:
    long, short = rules.leverage_long, rules.leverage_short
    if long == short == 1:
        return ""
    if long == short:
        return "leverage by candle" if long is None else f"leverage {long:g}"
    sides = zip(("long", "short"), (long, short), strict=True)
    return "leverage " + ", ".join(f"{side} {'by candle' if value is None else f'{value:g}'}" for side, value in sides)


def _trailing(rules: TradingRules) -> str:
    if not rules.trailing_stop:
        return ""
    distance = rules.stoploss_ratio if rules.trailing_stop_positive is None else rules.trailing_stop_positive
    start = rules.trailing_stop_positive_offset
    when = f" from +{_percent(start)} on" if start > 0 and rules.trailing_only_offset_is_reached else ""
    wider = ""
    if rules.trailing_stop_positive is not None and not rules.trailing_only_offset_is_reached:
        wider = f", above +{_percent(start)}; below, by {_percent(rules.stoploss_ratio)}"
    return f"stop trails by {_percent(distance)}{when}{wider}"


def _roi(rules: TradingRules) -> str:
    if not rules.minimal_roi:
        return "no ROI"
    steps = [
        f"{_percent(ratio)} after {minutes} min" if minutes else _percent(ratio) for minutes, ratio in rules.minimal_roi
    ]
    return "ROI " + ", ".join(steps)


def _liquidation(rules: TradingRules) -> str:
    sides = (("longs", rules.liquidation_long), ("shorts", rules.liquidation_short))
    said = [f"{side} at {rate:.4g} of the entry's rate" for side, rate in sides if rate]
    return f"liquidation of {' and '.join(said)}" if said else ""
