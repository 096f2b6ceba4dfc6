"""A simulated futures account: wallet, positions and orders that are filled along the prices of the replay.

Nothing happens between two requests. At each of them the account is brought up to the moment: what the prices since the
last one would have done, it does then, in the order of time, so that the same candles and orders give the same fills
whenever somebody looks. All of it is in memory: who starts again finds it for as long as the exchange runs.
"""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import freqtrade.exchange

from mtfscalper.offline.binance import BinanceError, ReplayMarket
from mtfscalper.offline.forming import first_at
from mtfscalper.offline.ledger import ZERO, Fill, Income, Order, OrderRequest, Position
from mtfscalper.offline.order_rules import check_notional

# Of the wallet, in quote currency, where nobody says otherwise: freqtrade's own `dry_run_wallet` in the shipped config.
DEFAULT_BALANCE = Decimal(10_000)
# What Binance charges of an account without discounts, and ccxt and a dry run suppose.
TAKER_FEE, MAKER_FEE = Decimal("0.0005"), Decimal("0.0002")
# Binance's code of a margin mode that is set already.
UNCHANGED_MARGIN = -4046
# Of pairs that the bundled brackets do not know.
_UNKNOWN = {"bracket": 1, "initialLeverage": 20, "notionalCap": 10**9, "notionalFloor": 0, "maintMarginRatio": 0.025}
_PLACES = Decimal("1e-8")


class _Event(NamedTuple):
    """What happens to the account by itself.

    :ivar time_ms: Unix milliseconds
    :ivar number: of the order that it happens to; of two at one moment the smaller comes first
    :ivar happen: makes it happen, given the moment
    """

    time_ms: int
    number: int
    happen: Callable[[int], None]


class SimulatedAccount:
    """An account in one quote currency.

    :ivar asset: the quote currency
    :ivar start_balance: what was in the wallet at first
    :ivar wallet: what is in it, margins of positions included, unrealized profits not
    :ivar orders: by number
    :ivar conditional: conditional orders by number
    :ivar fills: in the order of time
    :ivar incomes: changes of the wallet, in the order of time
    """

    def __init__(self, balance: Decimal = DEFAULT_BALANCE, asset: str = "USDT") -> None:
        """
        :param balance: of the wallet
        :param asset: its currency
        """
        self.asset, self.start_balance, self.wallet = asset, balance, balance
        self.orders: dict[int, Order] = {}
        self.conditional: dict[int, Order] = {}
        self.fills: list[Fill] = []
        self.incomes: list[Income] = []
        self._positions: dict[str, Position] = {}
        self._looked_ms: int | None = None

    # ------------------------------------------------------------------ looking

    def position(self, symbol: str) -> Position:
        """What is held of a symbol."""
        return self._positions.setdefault(symbol, Position())

    @property
    def symbols(self) -> list[str]:
        """The symbols of which something is held or ordered."""
        held = {symbol for symbol, position in self._positions.items() if position.amount}
        return sorted(held | {order.asked.symbol for order in self._open()})

    @property
    def order_margin(self) -> Decimal:
        """What is put by for orders in the book."""
        return sum((self.margin_of(order) for order in self._open(self.orders)), start=ZERO)

    @property
    def available(self) -> Decimal:
        """What can be used for new orders."""
        return self.wallet - sum((one.margin for one in self._positions.values()), start=ZERO) - self.order_margin

    def margin_of(self, order: Order) -> Decimal:
        """What is put by for an order."""
        return self._needed(order.asked, order.left, order.asked.price or ZERO) if order.is_open else ZERO

    def liquidation_price(self, symbol: str, pair: str) -> Decimal:
        """At which mark price the position is liquidated; 0 where nothing is held or no price does.

        :param pair: freqtrade's name of the symbol
        """
        position = self.position(symbol)
        return position.liquidation_price(*maintenance(pair, abs(position.amount * position.entry)))

    # ------------------------------------------------------------------ settings

    def set_leverage(self, symbol: str, leverage: int, pair: str) -> None:
        """Set the leverage of what is added to a position from now on."""
        highest = max(one["initialLeverage"] for one in brackets(pair))
        if not 1 <= leverage <= highest:
            raise BinanceError(400, -4028, f"Leverage {leverage} is not valid; accepted: 1 to {highest}.")
        position = self.position(symbol)
        if position.amount and leverage < position.leverage:
            message = "Leverage reduction is not supported in Isolated Margin Mode with open positions."
            raise BinanceError(400, -4161, message)
        position.leverage = leverage

    def set_margin_mode(self, symbol: str, mode: str) -> None:
        """Set a symbol's margin mode: ``ISOLATED``, the only one that is simulated."""
        position = self.position(symbol)
        if mode == "ISOLATED" and position.is_isolated:
            raise BinanceError(400, UNCHANGED_MARGIN, "No need to change margin type.")
        if mode != "ISOLATED":
            message = f"Margin type {mode!r} is not simulated; accepted: ISOLATED (freqtrade's margin_mode 'isolated')."
            raise BinanceError(400, -1130, message)
        position.is_isolated = True

    # ------------------------------------------------------------------ orders

    def place(self, asked: OrderRequest, market: ReplayMarket) -> Order:
        """Take an order.

        :param market: of the moment to which the account was brought
        :return: the order, filled where it can be at once
        :raises BinanceError: when the exchange refuses it
        """
        if any(order.asked.client_id == asked.client_id for order in self._open(self.orders)):
            raise BinanceError(400, -4116, "ClientOrderId is duplicated.")
        best = self._best(asked, market)
        is_taker = asked.price is None or (best <= asked.price if asked.is_buy else best >= asked.price)
        price = best if is_taker else asked.price or best
        check_notional(asked, price)
        self._check_position(asked, price)
        if is_taker and asked.time_in_force == "GTX":
            message = "Due to the order could not be executed as maker, the Post Only order will be rejected."
            raise BinanceError(400, -5022, message)
        if not is_taker and asked.time_in_force == "FOK":
            message = "Due to the order could not be filled immediately, the FOK order has been rejected."
            raise BinanceError(400, -5021, message)
        order = self._add(asked, market.now_ms)
        if is_taker:
            self._fill(order, best, market.now_ms, is_maker=False)
        elif asked.time_in_force == "IOC":
            order.end("EXPIRED", market.now_ms)
        return order

    def place_conditional(self, asked: OrderRequest, market: ReplayMarket) -> Order:
        """Take an order that waits for a price.

        :raises BinanceError: when the exchange refuses it
        """
        if any(order.asked.client_id == asked.client_id for order in self._open(self.conditional)):
            raise BinanceError(400, -4116, "ClientOrderId is duplicated.")
        price = Decimal(str(market.mark_price(asked.symbol) if asked.by_mark else market.last_price(asked.symbol)))
        check_notional(asked, price)
        trigger = asked.trigger or ZERO
        if price <= trigger if asked.triggers_from_above else price >= trigger:
            raise BinanceError(400, -2021, "Order would immediately trigger.")
        order = Order(len(self.conditional) + 1, asked, asked.quantity, market.now_ms, market.now_ms)
        self.conditional[order.number] = order
        return order

    # ------------------------------------------------------------------ what happens by itself

    def advance(self, market: ReplayMarket) -> None:
        """Do what the prices since the last time have done.

        :param market: of the moment; nothing happens where it is not later than the last one
        """
        if self._looked_ms is None:
            self._looked_ms = market.now_ms
        while self._looked_ms < market.now_ms:
            event = min(self._events(market, self._looked_ms), key=lambda event: event[:2], default=None)
            if event is None:
                self._looked_ms = market.now_ms
                break
            event.happen(event.time_ms)
            self._looked_ms = max(self._looked_ms, event.time_ms)

    def _events(self, market: ReplayMarket, since_ms: int) -> Iterator[_Event]:
        """Of each order and position what happens to it next."""
        for symbol in self.symbols:
            path = market.path_since(symbol, since_ms)
            step = float(market.steps(symbol)[0])
            for order in self._open(self.orders, symbol):
                limit = float(order.asked.price or ZERO)
                # It buys from who sells to the best bid: the last price, a step below the best ask.
                level = limit - step if order.asked.is_buy else limit
                if (met := first_at(path, level, from_above=order.asked.is_buy)) is not None:
                    happen = partial(self._fill, order, Decimal(order.asked.price or ZERO), is_maker=True)
                    yield _Event(met[0], order.number, happen)
            for order in self._open(self.conditional, symbol):
                asked = order.asked
                prices = market.path_since(symbol, since_ms, is_mark=True) if asked.by_mark else path
                if (met := first_at(prices, float(asked.trigger or ZERO), asked.triggers_from_above)) is not None:
                    yield _Event(met[0], order.number, partial(self._trigger, order, market))
            if self.position(symbol).amount:
                yield from self._position_events(symbol, market, since_ms)

    def _position_events(self, symbol: str, market: ReplayMarket, since_ms: int) -> Iterator[_Event]:
        position = self.position(symbol)
        rates = market.funding_rates(symbol, position.funded_ms + 1, market.now_ms, 1)
        for rate in rates:
            yield _Event(rate["fundingTime"], 0, partial(self._fund, symbol, Decimal(rate["fundingRate"]), market))
        price = self.liquidation_price(symbol, market.pairs[symbol])
        marks = market.path_since(symbol, since_ms, is_mark=True)
        if price and (met := first_at(marks, float(price), from_above=position.amount > 0)) is not None:
            yield _Event(met[0], 0, partial(self._liquidate, symbol, price))

    def _fund(self, symbol: str, rate: Decimal, market: ReplayMarket, now_ms: int) -> None:
        position = self.position(symbol)
        mark = Decimal(str(market.at(now_ms).mark_price(symbol)))
        amount = _rounded(-position.amount * mark * rate)
        position.funded_ms = now_ms
        position.margin += amount
        self._book("FUNDING_FEE", symbol, amount, now_ms)

    def _trigger(self, order: Order, market: ReplayMarket, now_ms: int) -> None:
        order.end("FINISHED", now_ms)
        kind = "LIMIT" if order.asked.price is not None else "MARKET"
        asked = order.asked._replace(kind=kind, trigger=None, client_id=f"triggered{order.number}")
        try:
            order.placed = self.place(asked, market.at(now_ms)).number
        except BinanceError:
            # Of a position that is gone, say; as on Binance the order then ends without one.
            order.end("REJECTED", now_ms)

    def _liquidate(self, symbol: str, price: Decimal, now_ms: int) -> None:
        position = self.position(symbol)
        is_buy = position.amount < 0
        asked = OrderRequest(f"autoclose-{now_ms}", symbol, is_buy, "MARKET", abs(position.amount), reduce_only=True)
        lost = position.margin
        order = self._add(asked, now_ms)
        self._fill(order, price, now_ms, is_maker=False)
        # Of the margin nothing is given back: the insurance fund takes the rest, or pays what is missing.
        fill = self.fills[-1]
        self._book("INSURANCE_CLEAR", symbol, -lost - fill.profit + fill.fee, now_ms)

    # ------------------------------------------------------------------ helpers

    def _open(self, orders: dict[int, Order] | None = None, symbol: str | None = None) -> list[Order]:
        among = [*self.orders.values(), *self.conditional.values()] if orders is None else [*orders.values()]
        return [order for order in among if order.is_open and symbol in (None, order.asked.symbol)]

    @staticmethod
    def _best(asked: OrderRequest, market: ReplayMarket) -> Decimal:
        """The price at which an order is filled that does not wait: the best of the other side."""
        step = market.steps(asked.symbol)[0]
        last = Decimal(str(market.last_price(asked.symbol))).quantize(step)
        return last + step if asked.is_buy else last

    def _needed(self, asked: OrderRequest, quantity: Decimal, price: Decimal) -> Decimal:
        """The margin of what an order adds to the position."""
        if asked.reduce_only:
            return ZERO
        position = self.position(asked.symbol)
        against = abs(position.amount) if (position.amount < 0) == asked.is_buy else ZERO
        return max(quantity - against, ZERO) * price / position.leverage

    def _check_position(self, asked: OrderRequest, price: Decimal) -> None:
        position = self.position(asked.symbol)
        if asked.reduce_only and (position.amount >= 0 if asked.is_buy else position.amount <= 0):
            raise BinanceError(400, -2022, "ReduceOnly Order is rejected.")
        if not position.is_isolated:
            message = f"Margin type of {asked.symbol} is CROSSED, which is not simulated; set it to ISOLATED first."
            raise BinanceError(400, -1130, message)
        needed = self._needed(asked, asked.quantity, price)
        if needed and needed + asked.quantity * price * TAKER_FEE > self.available:
            raise BinanceError(400, -2019, "Margin is insufficient.")

    def _add(self, asked: OrderRequest, now_ms: int) -> Order:
        held = abs(self.position(asked.symbol).amount)
        quantity = min(asked.quantity, held) if asked.reduce_only else asked.quantity
        order = Order(len(self.orders) + 1, asked, quantity, now_ms, now_ms)
        self.orders[order.number] = order
        return order

    def _fill(self, order: Order, price: Decimal, now_ms: int, is_maker: bool) -> None:
        """Fill an order whole; of one that reduces a position, as much as there still is."""
        asked = order.asked
        position = self.position(asked.symbol)
        quantity = min(order.left, abs(position.amount)) if asked.reduce_only else order.left
        profit = _rounded(position.fill(quantity if asked.is_buy else -quantity, price, now_ms))
        fee = _rounded(quantity * price * (MAKER_FEE if is_maker else TAKER_FEE))
        order.filled += quantity
        order.quote += quantity * price
        order.end("EXPIRED" if order.left else "FILLED", now_ms)
        number = len(self.fills) + 1
        self.fills.append(
            Fill(number, order.number, asked.symbol, asked.is_buy, price, quantity, fee, profit, is_maker, now_ms)
        )
        if profit:
            self._book("REALIZED_PNL", asked.symbol, profit, now_ms, number)
        self._book("COMMISSION", asked.symbol, -fee, now_ms, number)
        if not position.amount:
            for other in self._open(symbol=asked.symbol):
                if other.asked.reduce_only:
                    other.end("EXPIRED", now_ms)

    def _book(self, kind: str, symbol: str, amount: Decimal, now_ms: int, fill: int | None = None) -> None:
        self.wallet += amount
        self.incomes.append(Income(kind, symbol, amount, now_ms, fill))


@cache
def brackets(pair: str) -> list[dict[str, Any]]:
    """Binance's leverage brackets of a pair, as freqtrade brings them along for a dry run.

    :param pair: freqtrade's name of it
    """
    path = Path(freqtrade.exchange.__file__).parent / "binance_leverage_tiers.json"
    tiers = json.loads(path.read_text(encoding="utf-8")).get(pair)
    return [tier["info"] for tier in tiers] if tiers else [_UNKNOWN]


def maintenance(pair: str, notional: Decimal) -> tuple[Decimal, Decimal]:
    """Ratio and deduction of the maintenance margin of a position.

    :param notional: its size in quote currency
    """
    known = brackets(pair)
    bracket = next((one for one in reversed(known) if notional >= one["notionalFloor"]), known[0])
    return Decimal(str(bracket["maintMarginRatio"])), Decimal(str(bracket.get("cum", 0)))


def _rounded(amount: Decimal) -> Decimal:
    return amount.quantize(_PLACES)
