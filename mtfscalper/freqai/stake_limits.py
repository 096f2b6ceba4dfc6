"""What the exchange's limits and lots make of a stake: looked at before a training, which plays the stake as wanted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from freqtrade.exceptions import FreqtradeException
from freqtrade.exchange import Exchange, amount_to_contract_precision

from mtfscalper.trading.trading_rules import RulesError

# The loss that freqtrade's backtester allows for in the smallest stake (``get_valid_entry_price_and_stake``). A bot
# allows for the strategy's stop.
BACKTESTS_STOP = -0.05
# A stake below the smallest is raised to it by this factor at most (``Wallets.validate_stake_amount``).
_MOST_RAISED = 1.3
# Up to here lots only round a stake.
_ROUNDING = 0.05


class EnteredStake(NamedTuple):
    """A stake that is wanted, and what becomes of it, in stake currency.

    :ivar entered: 0 where no trade is entered
    """

    rate: float
    leverage: float
    wanted: float
    entered: float


class StakeLimits(NamedTuple):
    """Whom the limits of a pair's stakes are asked of.

    :ivar stop_ratio: the loss that the smallest stake allows for, negative
    """

    exchange: Exchange
    pair: str
    stop_ratio: float

    def least_and_most(self, rate: float, leverage: float) -> tuple[float, float]:
        """The least and the largest stake that the exchange takes at a rate.

        :raises RulesError: if it has none
        """
        try:
            least = self.exchange.get_min_pair_stake_amount(self.pair, rate, self.stop_ratio, leverage) or 0.0
            return least, self.exchange.get_max_pair_stake_amount(self.pair, rate, leverage)
        except (FreqtradeException, ValueError) as error:
            # freqtrade's exchange raises a ValueError for a pair that it has no market of.
            raise RulesError(
                f"{self.pair}: the exchange names no limits of a stake at the rate {rate:g} and leverage {leverage:g} "
                f"({error}); accepted: a pair of the exchange's markets, whose limits custom_stake_amount is given; "
                "remedy: take the pair out of the whitelist, or try again when the exchange answers"
            ) from error

    def entered(self, rate: float, leverage: float, stake: float, available: float) -> float:
        """What freqtrade stakes where a stake is wanted, 0 where it enters no trade.

        :raises RulesError: if the exchange has no limits
        """
        least, most = self.least_and_most(rate, leverage)
        most = min(most, available)
        if least > most or stake * _MOST_RAISED < least:
            return 0.0
        exchange = self.exchange
        amount = amount_to_contract_precision(
            min(max(stake, least), most) / rate * leverage,
            exchange.get_precision_amount(self.pair),
            exchange.precisionMode,
            exchange.get_contract_size(self.pair),
        )
        return amount * rate / leverage

    def most_altered(
        self,
        rates: npt.NDArray[np.float64],
        leverages: npt.NDArray[np.float64],
        stakes: npt.NDArray[np.float64],
        available: float,
    ) -> EnteredStake | None:
        """The stake of which most is changed, None where lots only round.

        Looked for at the candles of the extreme rates, positions and amounts: limits and lots are steps in those.

        :param rates: opens, shape (n_candles,), as the other arrays
        :param stakes: wanted; where nothing is, nothing is looked at
        :raises RulesError: if the exchange has no limits
        """
        wants = np.flatnonzero(stakes > 0)
        if not len(wants):
            return None
        rates, leverages, stakes = rates[wants], leverages[wants], stakes[wants]
        measures = (rates, stakes, stakes * leverages, stakes * leverages / rates)
        looked_at = {int(find(measure)) for measure in measures for find in (np.argmin, np.argmax)}
        found = []
        for at in sorted(looked_at):
            asked = float(rates[at]), float(leverages[at]), float(stakes[at])
            found.append(EnteredStake(*asked, self.entered(*asked, available)))
        worst = max(found, key=lambda one: abs(one.entered / one.wanted - 1))
        return worst if abs(worst.entered / worst.wanted - 1) > _ROUNDING else None
