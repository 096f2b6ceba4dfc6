"""Rules in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mtfscalper.trading.rules_text import rules_text
from mtfscalper.trading.trading_rules import TradingRules

RULES = TradingRules(
    fee_ratio=0.0005,
    stoploss_ratio=0.02,
    max_trade_duration_candles=96,
    timeframe_minutes=5,
    minimal_roi=((0, 0.04), (120, 0.02)),
    stake_ratio=0.495,
    available_ratio=0.99,
)


def test_the_rules_are_a_sentence() -> None:
    assert rules_text(RULES) == (
        "fee 0.05 % a side; stake 49.5 % of the equity; stop at -2 %; ROI 4 %, 2 % after 120 min; at most 96 candles "
        "(8 h); an episode ends 50 % below its peak"
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"minimal_roi": ()}, "no ROI"),
        ({"can_short": False}, "longs alone"),
        ({"leverage_long": 3.0, "leverage_short": 3.0}, "leverage 3;"),
        ({"leverage_long": 3.0, "leverage_short": None}, "leverage long 3, short by candle;"),
        ({"leverage_long": None, "leverage_short": None}, "leverage by candle;"),
        ({"fixed_stake_ratio": 0.1}, "stake 10 % of the first equity"),
        ({"trailing_stop": True}, "stop trails by 2 %;"),
        (
            {"trailing_stop": True, "trailing_stop_positive": 0.005, "trailing_stop_positive_offset": 0.01},
            "stop trails by 0.5 %, above +1 %; below, by 2 %;",
        ),
        (
            {
                "trailing_stop": True,
                "trailing_stop_positive": 0.005,
                "trailing_stop_positive_offset": 0.01,
                "trailing_only_offset_is_reached": True,
            },
            "stop trails by 0.5 % from +1 % on;",
        ),
        (
            {"liquidation_long": 0.8, "liquidation_short": 1.2},
            "liquidation of longs at 0.8 of the entry's rate and shorts at 1.2 of the entry's rate",
        ),
    ],
)
def test_what_applies_is_said(changed: dict[str, Any], said: str) -> None:
    assert said not in rules_text(RULES)
    assert said in rules_text(replace(RULES, **changed))
