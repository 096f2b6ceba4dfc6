"""The terms on which a strategy's trades are entered and left.

One number where the strategy says the same at every candle, else a column of the tape.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from freqtrade.constants import UNLIMITED_STAKE_AMOUNT
from freqtrade.enums import TRADE_MODES, MarginMode, TradingMode
from freqtrade.exceptions import InvalidOrderException, OperationalException
from freqtrade.exchange import Exchange
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.freqai.as_traded import Asked, Callbacks, Historic, Signals, signals_of, why_not_as_asked
from mtfscalper.freqai.columns import ACTION_COLUMN
from mtfscalper.freqai.stake_limits import BACKTESTS_STOP
from mtfscalper.freqai.unsimulated import EXITS_OF_COLUMNS
from mtfscalper.trading.trading_rules import RulesError

logger = logging.getLogger(__name__)

_SIDES = ("long", "short")
# Wallets that the exchange's tiers are looked up for, over the first. By default an episode ends at the half.
_WALLETS = (0.5, 2.0)
# Of liquidation rates over entry rates, from where on they are told apart.
_SAME_LIQUIDATION = 1e-3


class Stake(NamedTuple):
    """What entries stake, in stake currency.

    :ivar proposed: to ``custom_stake_amount``
    :ivar available: at most
    """

    proposed: float
    available: float


class EntryTerms(NamedTuple):
    """What a strategy says of a pair's trades.

    :ivar leverage: of longs and of shorts; None where it is a column
    :ivar liquidation: liquidation rate over entry rate of longs and of shorts, 0 where the stop comes first or it is a
        column
    :ivar stake_factor: what is staked over what is proposed; 1 where it is a column
    :ivar columns: ``date``, and of :data:`mtfscalper.market.tape.GATE_COLUMNS`, ``EXIT_COLUMNS`` and ``ENTRY_COLUMNS``
        those that are not the same for all candles; one row a candle
    """

    leverage: tuple[float | None, float | None]
    liquidation: tuple[float, float]
    stake_factor: float
    columns: DataFrame


@dataclass(frozen=True)
class Asker:
    """Whom the terms are asked of.

    :ivar config: the freqtrade config
    :ivar told: warnings that were given: a bot asks at every candle
    """

    strategy: IStrategy
    config: dict[str, Any]
    exchange: Exchange
    told: set[str] = field(default_factory=set, repr=False)

    @property
    def is_futures(self) -> bool:
        """Whether there is leverage, and liquidation."""
        return bool(self.config.get("trading_mode", TradingMode.SPOT) == TradingMode.FUTURES)

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that the strategy can trade."""
        return _SIDES if self.strategy.can_short else _SIDES[:1]

    def signals(self, pair: str, candles: DataFrame, historic: Historic | None = None) -> Signals | None:
        """See :func:`mtfscalper.freqai.as_traded.signals_of`; None, and a warning, where the strategy cannot be run."""
        try:
            return signals_of(self.strategy, candles, pair, historic)
        except Exception as error:
            # Of the user's code: it may raise anything. What it would have said is named as not simulated.
            self._warn(
                f"{pair}: {type(self.strategy).__name__} cannot be run on columns of an imagined policy "
                f"({type(error).__name__}: {error}): training knows neither its entry tags nor its own conditions for "
                "entries nor its own exit signals.",
                f"{pair}: {type(error).__name__}",
            )
            return None

    def signal_columns(
        self, pair: str, candles: DataFrame, historic: Historic | None = None
    ) -> dict[str, npt.NDArray[np.bool_]]:
        """The columns of the strategy's own conditions and exits that are not the same for all candles."""
        return self._columns(pair, self.signals(pair, candles, historic))

    def _columns(self, pair: str, signals: Signals | None) -> dict[str, npt.NDArray[np.bool_]]:
        if signals is None:
            return {}
        columns = {}
        for name, side in (("long", signals.long), ("short", signals.short)):
            if not side.gate.all():
                columns[f"{name}_gate"] = side.gate
            if side.exit.any():
                columns[f"{name}_exit"] = side.exit
        if self.strategy.exit_profit_only and any(name.endswith("_exit") for name in columns):
            self._warn(
                f"{pair}: exit_profit_only: the strategy's own exit signals are passed over up to a profit of "
                f"exit_profit_offset ({self.strategy.exit_profit_offset}), and the policy is not asked at those "
                "candles; in training they close the trade."
            )
        if signals.exits_vary:
            self._warn(f"{pair}: {EXITS_OF_COLUMNS.name}: {EXITS_OF_COLUMNS.consequence}.")
        if signals.doubled:
            self._warn(
                f"{pair}: the strategy's own exit signal meets its own entry on {signals.doubled} candles. freqtrade "
                "keeps an open trade there if the policy would enter as well; in training the exit closes it.",
                f"{pair}: doubled",
            )
        return columns

    def _warn(self, message: str, name: str | None = None) -> None:
        """Warn, unless that was done.

        :param name: by which it is known again; the message by default
        """
        if (name or message) not in self.told:
            self.told.add(name or message)
            logger.warning("%s", message)

    def terms(
        self,
        pair: str,
        candles: DataFrame,
        stake: Stake,
        historic: Historic | None = None,
        *,
        policy_enters: bool = True,
    ) -> EntryTerms:
        """The terms of a pair's trades on its candles.

        :param candles: ``date``, open, high, low, close, volume; one row a candle
        :param policy_enters: whether the policy decides on entries, as in all entry modes but "classic"
        :raises mtfscalper.trading.trading_rules.RulesError: if the exchange has no leverage for the stake
        :raises OperationalException: if the strategy does not trade what a policy asks for
        """
        signals = self.signals(pair, candles, historic)
        if signals is not None:
            why = why_not_as_asked(self.strategy, candles, pair, signals)
            if why is not None:
                raise OperationalException(why)
            if policy_enters and signals.unasked:
                self._warn(
                    f"{pair}: populate_entry_trend of {type(self.strategy).__name__} enters at {signals.unasked} of "
                    f"{len(candles)} candles whatever the policy says, and in training the policy decides on each "
                    f"entry. Remedy: enter where {ACTION_COLUMN} is 1 (long) or 3 (short); for entries of the "
                    "strategy's own, set classic_long and classic_short and freqai.rl_config.entry_mode to 'classic'.",
                    f"{pair}: unasked",
                )
        columns = candles[["date"]].assign(**self._columns(pair, signals))
        leverages, stakes, wanted = [], [], []
        stop = self.strategy.stoploss if self.config.get("runmode") in TRADE_MODES else BACKTESTS_STOP
        for side in _SIDES:
            callbacks = Callbacks(self.strategy, self.exchange, pair, side, candles, signals, stake.proposed, stop)
            is_traded = side in self.sides
            leverage = np.ones(len(candles))
            if self.is_futures and is_traded:
                leverage = self._told(pair, "leverage", side, callbacks.leverages())
            leverages.append(leverage)
            factor = np.ones(len(candles))
            if is_traded:
                factor = self._told(pair, "custom_stake_amount", side, callbacks.stakes(leverage, stake.available))
            stakes.append(factor)
            wanted.append(np.minimum(factor * stake.proposed, stake.available))
            if is_traded:
                self._tell_limits(callbacks, side, candles["open"].to_numpy(), leverage, wanted[-1], stake.available)
                self._tell_tiers(pair, side, leverage, wanted[-1], stake.proposed)
        if self.is_futures and not self.strategy.can_short:
            leverages[1] = leverages[0]
        liquidations = [
            # With a stake of nothing nothing is entered.
            self._liquidations(pair, side, leverage, np.where(staked > 0, staked, stake.proposed))
            for side, leverage, staked in zip(_SIDES, leverages, wanted, strict=True)
        ]
        leverage_is_one = all(_is_constant(values) for values in leverages + liquidations)
        if not leverage_is_one:
            columns = columns.assign(**_named("leverage", leverages), **_named("liquidation", liquidations))
        factors = np.concatenate(stakes[: len(self.sides)])
        stake_is_one = _is_constant(factors)
        if not stake_is_one:
            columns = columns.assign(**_named("stake", stakes))
        first = [float(values[0]) for values in leverages]
        return EntryTerms(
            leverage=(first[0], first[1]) if leverage_is_one else (None, None),
            liquidation=(float(liquidations[0][0]), float(liquidations[1][0])) if leverage_is_one else (0.0, 0.0),
            stake_factor=float(factors[0]) if stake_is_one else 1.0,
            columns=columns,
        )

    def _tell_limits(
        self,
        callbacks: Callbacks,
        side: str,
        rates: npt.NDArray[np.float64],
        leverages: npt.NDArray[np.float64],
        stakes: npt.NDArray[np.float64],
        available: float,
    ) -> None:
        """Warn of stakes that the exchange's limits and lots change, or do not let be entered.

        :param rates: opens, shape (n_candles,), as the other arrays
        :param stakes: wanted, stake currency
        :param available: stake currency at most
        """
        limits = callbacks.limits
        try:
            found = limits.most_altered(rates, leverages, stakes, available)
        except (RulesError, ArithmeticError, AssertionError):
            # Of an exchange without limits, or with lots that ccxt cannot count in: a warning is all that they are for.
            return
        if found is not None:
            becomes = "no trade is entered with" if found.entered == 0 else f"{found.entered:g} becomes of"
            self._warn(
                f"{limits.pair}: by the exchange's limits and lots {becomes} a stake of {found.wanted:g} "
                f"{self.config.get('stake_currency', '')} at the rate {found.rate:g} and leverage {found.leverage:g} "
                f"({side}), the candle at which most is changed; training enters with the stake as it is. Remedy: "
                "another stake_amount, dry_run_wallet or max_open_trades, or a whitelist without the pair.",
                f"{limits.pair}: limits {side}",
            )

    def _tell_tiers(
        self,
        pair: str,
        side: str,
        leverages: npt.NDArray[np.float64],
        stakes: npt.NDArray[np.float64],
        proposed: float,
    ) -> None:
        """Warn where stakes that follow the wallet reach tiers of the exchange with other leverage or liquidation.

        :param stakes: wanted, stake currency, shape (n_candles,), as ``leverages``
        :param proposed: stake that the largest leverage is looked up by
        """
        if not self.is_futures or self.config.get("stake_amount", UNLIMITED_STAKE_AMOUNT) != UNLIMITED_STAKE_AMOUNT:
            return
        largest_position = int(np.argmax(leverages * stakes))
        leverage, stake = float(leverages[largest_position]), float(stakes[largest_position])
        if stake == 0:
            return
        is_bounded = leverage >= self.exchange.get_max_leverage(pair, proposed)
        found = []
        for factor in _WALLETS:
            try:
                most = float(self.exchange.get_max_leverage(pair, factor * proposed))
            except InvalidOrderException:
                found.append(f"with {factor:g} times the wallet its tiers end, and no {side} is entered")
                continue
            if most < leverage or (is_bounded and most > leverage):
                found.append(
                    f"with {factor:g} times the wallet a {side} gets leverage {most:g} at most, at first {leverage:g}"
                )
                continue
            first, later = (self._before_stop(pair, side, leverage, staked) for staked in (stake, factor * stake))
            if abs(first - later) > _SAME_LIQUIDATION:
                distances = [f"{100 * abs(1 - rate):.1f} %" if rate else "the stop" for rate in (later, first)]
                found.append(
                    f"with {factor:g} times the wallet a {side} is liquidated {distances[0]} from its entry rate, at "
                    f"first {distances[1]}"
                )
        if found:
            self._warn(
                f"{pair}: stakes follow the wallet (stake_amount 'unlimited'), and leverage and liquidation the "
                f"exchange's tiers: {'; '.join(found)}; in training they stay as at first. Remedy: a number as "
                "stake_amount, a lower leverage, or more slots (max_open_trades).",
                f"{pair}: tiers {side}",
            )

    def _liquidations(
        self, pair: str, side: str, leverages: npt.NDArray[np.float64], stakes: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Liquidation rates over entry rates, 0 where the stop comes first.

        :param leverages: of the entries, shape (n_candles,), as ``stakes``, in stake currency
        """
        if not self.is_futures or side not in self.sides:
            return np.zeros(len(leverages))
        different, where = np.unique(np.stack([leverages, stakes]), axis=1, return_inverse=True)
        ratios = np.array([self._before_stop(pair, side, *of_entry) for of_entry in different.T.tolist()])
        first = ratios > 0
        if first.any():
            nearest = float(np.abs(1 - ratios[first]).min())
            logger.warning(
                "%s: the stop of %s at %g of the stake lies beyond the liquidation, %.1f %% from the entry rate of a "
                "%s at the least: trades are stopped by the liquidation, in training as in the backtest.",
                pair,
                type(self.strategy).__name__,
                self.strategy.stoploss,
                100 * nearest,
                side,
            )
        return ratios[where]

    def _before_stop(self, pair: str, side: str, leverage: float, stake: float) -> float:
        """As :meth:`_liquidation`; 0 where the stop comes first."""
        ratio = self._liquidation(pair, side, leverage, stake)
        sign = -1.0 if side == "short" else 1.0
        stop = 1 - sign * abs(self.strategy.stoploss) / leverage
        return ratio if ratio > 0 and sign * ratio > sign * stop else 0.0

    def _liquidation(self, pair: str, side: str, leverage: float, stake: float) -> float:
        """The liquidation rate of a trade entered at 1, freqtrade's buffer taken off; 0 for none.

        It is in proportion to the entry rate, and for a stake within one of the exchange's tiers it is the same.
        """
        if self.config.get("margin_mode") == MarginMode.CROSS:
            # It depends on the other trades of the wallet.
            return 0.0
        rate = self.exchange.dry_run_liquidation_price(
            pair=pair,
            open_rate=1.0,
            is_short=side == "short",
            amount=stake * leverage,
            stake_amount=stake,
            leverage=leverage,
            wallet_balance=stake,
            open_trades=[],
        )
        if rate is None:
            return 0.0
        buffer = abs(1 - rate) * self.exchange.liquidation_buffer
        return float(max(rate - buffer if side == "short" else rate + buffer, 0.0))

    def _told(self, pair: str, name: str, side: str, asked: Asked) -> npt.NDArray[np.float64]:
        strategy = type(self.strategy).__name__
        if asked.failure is not None:
            logger.warning(
                "%s: %s of %s raised %s: %s at %d of %d candles, asked about a %s; freqtrade then goes on with its "
                "default, and so does training.",
                pair,
                name,
                strategy,
                type(asked.failure).__name__,
                asked.failure,
                asked.failures,
                len(asked.values),
                side,
            )
        if asked.is_sample:
            logger.info(
                "%s: %s of %s takes long, and answered the same for a %s wherever it was asked: taken for constant.",
                pair,
                name,
                strategy,
                side,
            )
        return asked.values


def _is_constant(values: npt.NDArray[np.float64]) -> bool:
    return bool((values == values[0]).all())


def _named(name: str, sides: list[npt.NDArray[np.float64]]) -> dict[str, Any]:
    return {f"{side}_{name}": pd.Series(values) for side, values in zip(_SIDES, sides, strict=True)}
