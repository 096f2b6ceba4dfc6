"""What stands in for an exchange or a pairlist where FreqAI's hooks are called without one, as notebooks call them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ccxt import TICK_SIZE
from freqtrade.data.dataprovider import DataProvider
from freqtrade.exceptions import OperationalException
from freqtrade.exchange import Exchange
from freqtrade.strategy import IStrategy

logger = logging.getLogger(__name__)


class UnknownExchange:
    """An exchange of which nothing is known: no fees, no price steps, no limits of leverage."""

    precision_mode_price = TICK_SIZE
    precisionMode = TICK_SIZE  # noqa: N815 - freqtrade's own name

    def get_fee(self, symbol: str, taker_or_maker: str) -> float | None:
        """Not known."""
        return None

    def get_precision_price(self, pair: str) -> float | None:
        """Not known: the candles show the price steps."""
        return None

    def get_precision_amount(self, pair: str) -> float | None:
        """Not known: amounts are continuous."""
        return None

    def get_contract_size(self, pair: str) -> float | None:
        """Not known."""
        return None

    def get_max_leverage(self, pair: str, stake_amount: float | None) -> float:
        """Without a limit."""
        return math.inf

    def get_min_pair_stake_amount(self, pair: str, price: float, stoploss: float, leverage: float) -> float | None:
        """Not known."""
        return None

    def get_max_pair_stake_amount(self, pair: str, price: float, leverage: float) -> float:
        """Without a limit."""
        return math.inf

    def dry_run_liquidation_price(self, **position: object) -> float | None:
        """Not known."""
        return None


def exchange_of(data: DataProvider | None) -> Exchange:
    """Where a strategy trades, as far as that is known."""
    if data is None or data._exchange is None:
        logger.warning(
            "There is no exchange to ask: training knows no price steps but the candles', no funding and no limit of "
            "leverage."
        )
        return cast(Exchange, UnknownExchange())
    return data._exchange


def pairs_of(config: Mapping[str, Any], strategy: IStrategy) -> Sequence[str]:
    """The pairs of a whole run, as far as they are known."""
    try:
        return strategy.dp.current_whitelist()
    except (AttributeError, OperationalException):
        # FreqAI's hooks may be called by hand, with a strategy that has no pairlist.
        return list(config.get("exchange", {}).get("pair_whitelist", ()))
