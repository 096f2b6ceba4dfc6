"""The column-only strategy with one line more, and with callbacks of its own."""

from datetime import datetime

from column_only_strategies import ColumnOnlyStrategy
from freqtrade.persistence import Trade

from mtfscalper.strategy import PolicyExits


class MixinStrategy(PolicyExits, ColumnOnlyStrategy):
    """Nothing of its own: the README's one line."""


class TakeProfitStrategy(MixinStrategy):
    """Takes a profit that the policy has left to it."""

    def custom_exit(
        self, pair: str, trade: Trade, current_time: datetime, current_rate: float, current_profit: float, **kwargs
    ) -> str | None:
        return "take_profit" if current_profit > 0.001 else None


class RaisingStrategy(MixinStrategy):
    """Fails whenever it is asked about a trade."""

    def custom_exit(self, pair: str, trade: Trade, **kwargs) -> str | None:
        raise KeyError(pair)
