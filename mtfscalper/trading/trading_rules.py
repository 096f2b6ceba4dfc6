"""What will be traded, as numbers: read from the config, the strategy and the exchange, never retyped."""

from __future__ import annotations

from dataclasses import dataclass


class RulesError(ValueError):
    """The rules of the strategy cannot be traded or cannot be simulated. Names value, accepted, remedy."""


@dataclass(frozen=True)
class TradingRules:
    """What will be traded: read from the config and the strategy object, never retyped.

    :ivar fee_ratio: fee of each side, e.g. 0.0005
    :ivar leverage_long: leverage of long trades, >= 1; None where it is that of the candle
    :ivar leverage_short: leverage of short trades, >= 1; None where it is that of the candle
    :ivar stoploss_ratio: loss of the stake (leverage included) at which the stop lies, e.g. 0.02
    :ivar minimal_roi: (minutes since entry, profit ratio) in rising minutes; empty for none
    :ivar trailing_stop_positive: distance of the trailing stop once in profit, None for ``stoploss_ratio``
    :ivar max_trade_duration_candles: candles after which a trade is closed at the open
    :ivar timeframe_minutes: length of a candle
    :ivar stake_ratio: share of the equity that is staked, so that profits compound
    :ivar fixed_stake_ratio: the same stake on every trade instead, as a share of the equity at the start
    :ivar available_ratio: share of the equity that may be staked at all
    :ivar max_drawdown_ratio: loss from the peak of equity that ends an episode
    :ivar liquidation_long: liquidation rate over entry rate of longs, 0 where the stop comes first, as
        ``liquidation_short``
    """

    fee_ratio: float
    stoploss_ratio: float
    max_trade_duration_candles: int
    timeframe_minutes: int
    leverage_long: float | None = 1.0
    leverage_short: float | None = 1.0
    minimal_roi: tuple[tuple[int, float], ...] = ()
    trailing_stop: bool = False
    trailing_stop_positive: float | None = None
    trailing_stop_positive_offset: float = 0.0
    trailing_only_offset_is_reached: bool = False
    can_short: bool = True
    stake_ratio: float = 1.0
    fixed_stake_ratio: float | None = None
    available_ratio: float = 1.0
    max_drawdown_ratio: float = 0.5
    liquidation_long: float = 0.0
    liquidation_short: float = 0.0

    def __post_init__(self) -> None:
        checks = (
            ("fee_ratio", 0 <= self.fee_ratio < 0.1, "a ratio in [0, 0.1)"),
            ("stoploss_ratio", 0 < self.stoploss_ratio <= 1, "a ratio in (0, 1]"),
            ("leverage_long", self.leverage_long is None or self.leverage_long >= 1, "a number >= 1"),
            ("leverage_short", self.leverage_short is None or self.leverage_short >= 1, "a number >= 1"),
            ("available_ratio", 0 < self.available_ratio <= 1, "a ratio in (0, 1]"),
            (
                "stake_ratio",
                0 < self.stake_ratio <= self.available_ratio,
                f"a ratio in (0, available_ratio = {self.available_ratio:g}]",
            ),
            (
                "fixed_stake_ratio",
                self.fixed_stake_ratio is None or 0 < self.fixed_stake_ratio <= self.available_ratio,
                f"a ratio in (0, available_ratio = {self.available_ratio:g}], or None to stake a share of the equity",
            ),
            ("liquidation_long", 0 <= self.liquidation_long < 1, "a ratio in [0, 1)"),
            (
                "liquidation_short",
                self.liquidation_short == 0 or self.liquidation_short > 1,
                "0, or a ratio above 1",
            ),
            ("max_trade_duration_candles", self.max_trade_duration_candles >= 1, "an integer >= 1"),
            ("timeframe_minutes", self.timeframe_minutes >= 1, "an integer >= 1"),
            ("minimal_roi", list(self.minimal_roi) == sorted(self.minimal_roi), "pairs in rising minutes"),
        )
        for name, holds, accepted in checks:
            if not holds:
                raise RulesError(
                    f"{name} is {getattr(self, name)!r}; accepted: {accepted}; remedy: correct the strategy"
                )

    @property
    def staked_ratio(self) -> float:
        """What is staked on a trade, as a share of the equity at the start."""
        return self.stake_ratio if self.fixed_stake_ratio is None else self.fixed_stake_ratio
