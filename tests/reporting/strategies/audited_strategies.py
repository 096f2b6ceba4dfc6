"""The project's strategy, which trades often here, and one subclass for each way to depart from its training."""

from datetime import datetime
from typing import Any

from freqtrade.persistence import Trade
from MtfScalper_RL_Hybrid import MtfScalper_RL_Hybrid


class Audited(MtfScalper_RL_Hybrid):
    """Nothing of its own."""


class MovesStop(Audited):
    """Moves the stop of a trade up as it goes on."""

    use_custom_stoploss = True

    def custom_stoploss(self, pair: str, trade: Trade, current_time: datetime, **kwargs: Any) -> float | None:
        return -0.003 if self.candles_held(trade, current_time) >= 3 else None


class TakesProfit(Audited):
    """Takes a small profit."""

    def custom_exit(
        self, pair: str, trade: Trade, current_time: datetime, current_rate: float, current_profit: float, **kwargs: Any
    ) -> str | None:
        return "enough" if current_profit > 0.002 else None


class Refuses(Audited):
    """Enters no short."""

    def confirm_trade_entry(self, *args: Any, side: str, **kwargs: Any) -> bool:
        return side == "long"


class Protects(Audited):
    """Pauses after each trade."""

    @property
    def protections(self) -> list[dict[str, Any]]:
        return [{"method": "CooldownPeriod", "stop_duration_candles": 4}]


class EntersBelow(Audited):
    """Enters at a rate of its own."""

    def custom_entry_price(
        self, pair: str, trade: Trade | None, current_time: datetime, proposed_rate: float, side: str, **kwargs: Any
    ) -> float:
        return proposed_rate * (0.9998 if side == "long" else 1.0002)


class FillsLate(EntersBelow):
    """Waits longer for its entries."""

    def custom_entry_price(self, *args: Any, proposed_rate: float, side: str, **kwargs: Any) -> float:
        return proposed_rate * (0.9985 if side == "long" else 1.0015)


class Adjusts(Audited):
    """Sells half of what it has."""

    position_adjustment_enable = True

    def adjust_trade_position(
        self, trade: Trade, current_time: datetime, current_rate: float, current_profit: float, **kwargs: Any
    ) -> float | None:
        half = trade.nr_of_successful_exits == 0 and self.candles_held(trade, current_time) == 2
        return -trade.stake_amount / 2 if half else None


class ExitsAtOwnPrice(Audited):
    """Leaves at a rate of its own."""

    def custom_exit_price(self, *args: Any, proposed_rate: float, **kwargs: Any) -> float:
        return proposed_rate * 1.0001


class OwnSignals(Audited):
    """Leaves by signals of its own too."""

    def populate_exit_trend(self, dataframe: Any, metadata: dict[str, Any]) -> Any:
        dataframe = super().populate_exit_trend(dataframe, metadata)
        dataframe.loc[dataframe["date"].dt.minute == 30, ["exit_long", "exit_short"]] = 1
        return dataframe


class HoldsOn(Audited):
    """Refuses the exits of its policy at times."""

    def confirm_trade_exit(self, *args: Any, exit_reason: str, current_time: datetime, **kwargs: Any) -> bool:
        return exit_reason != "rl_exit" or current_time.minute % 15 != 0
