"""What a futures account holds, and what a fill does to it: positions in one direction, with isolated margin.

Money and quantities are decimal numbers, so that a position that was left is exactly zero.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

ZERO = Decimal(0)
# Of the states of an order, those in which it can still be filled or triggered.
OPEN_STATES = ("NEW", "PARTIALLY_FILLED")


class OrderRequest(NamedTuple):
    """An order as it was asked for.

    :ivar client_id: the client's name of it
    :ivar symbol: Binance's symbol
    :ivar is_buy: whether it buys
    :ivar kind: LIMIT or MARKET, or of a conditional order STOP, STOP_MARKET, TAKE_PROFIT, TAKE_PROFIT_MARKET
    :ivar quantity: in base currency, above zero
    :ivar price: the limit; None for an order at the market
    :ivar time_in_force: GTC, IOC, FOK, or GTX: only as a maker
    :ivar reduce_only: whether it may only make a position smaller
    :ivar trigger: the price that a conditional order waits for
    :ivar by_mark: whether it waits for the mark price to be there
    """

    client_id: str
    symbol: str
    is_buy: bool
    kind: str
    quantity: Decimal
    price: Decimal | None = None
    time_in_force: str = "GTC"
    reduce_only: bool = False
    trigger: Decimal | None = None
    by_mark: bool = False

    @property
    def side(self) -> str:
        """Binance's name of the side."""
        return "BUY" if self.is_buy else "SELL"

    @property
    def triggers_from_above(self) -> bool:
        """Whether a conditional order waits for the price to fall."""
        return self.is_buy == self.kind.startswith("TAKE_PROFIT")


@dataclass
class Order:
    """An order on the exchange.

    :ivar number: its number on the exchange
    :ivar asked: as it was asked for
    :ivar quantity: of the order; of one that reduces a position at most the position's
    :ivar created_ms: Unix milliseconds
    :ivar updated_ms: of its last change
    :ivar status: Binance's
    :ivar filled: how much was filled
    :ivar quote: for how much, in quote currency
    :ivar placed: of a conditional order that was triggered, the number of the order that followed
    """

    number: int
    asked: OrderRequest
    quantity: Decimal
    created_ms: int
    updated_ms: int
    status: str = "NEW"
    filled: Decimal = ZERO
    quote: Decimal = ZERO
    placed: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether it can still be filled or triggered."""
        return self.status in OPEN_STATES

    @property
    def left(self) -> Decimal:
        """What has not been filled."""
        return self.quantity - self.filled

    @property
    def average(self) -> Decimal:
        """The price at which it was filled, 0 before."""
        return self.quote / self.filled if self.filled else ZERO

    def end(self, status: str, now_ms: int) -> None:
        """Change its state for good."""
        self.status, self.updated_ms = status, now_ms


class Fill(NamedTuple):
    """A part of an order that was carried out, all of it here.

    :ivar number: of the fill
    :ivar order: number of the order
    :ivar symbol: Binance's symbol
    :ivar is_buy: whether it bought
    :ivar price: in quote currency
    :ivar quantity: in base currency
    :ivar fee: paid, in quote currency
    :ivar profit: that was realized by it, without the fee
    :ivar is_maker: whether it waited in the book
    :ivar time_ms: Unix milliseconds
    """

    number: int
    order: int
    symbol: str
    is_buy: bool
    price: Decimal
    quantity: Decimal
    fee: Decimal
    profit: Decimal
    is_maker: bool
    time_ms: int


class Income(NamedTuple):
    """A change of the wallet.

    :ivar kind: FUNDING_FEE, REALIZED_PNL, COMMISSION or INSURANCE_CLEAR
    :ivar symbol: Binance's symbol
    :ivar amount: in quote currency, negative where it was paid
    :ivar time_ms: Unix milliseconds
    :ivar fill: number of the fill that it comes from
    """

    kind: str
    symbol: str
    amount: Decimal
    time_ms: int
    fill: int | None = None


@dataclass
class Position:
    """What is held of a symbol.

    :ivar amount: in base currency, negative for a short
    :ivar entry: its average price
    :ivar margin: isolated for it, with the funding that it paid
    :ivar leverage: of what is added to it
    :ivar is_isolated: margin mode; as on Binance nothing is at first
    :ivar funded_ms: until when its funding is settled
    :ivar updated_ms: of its last change
    """

    amount: Decimal = ZERO
    entry: Decimal = ZERO
    margin: Decimal = ZERO
    leverage: int = 20
    is_isolated: bool = False
    funded_ms: int = 0
    updated_ms: int = 0

    def fill(self, quantity: Decimal, price: Decimal, now_ms: int) -> Decimal:
        """Buy or sell.

        :param quantity: in base currency, negative to sell
        :return: the profit that is realized
        """
        sign = 1 if quantity > 0 else -1
        closed = min(abs(quantity), abs(self.amount)) if self.amount * quantity < 0 else ZERO
        profit = -sign * closed * (price - self.entry)
        if closed:
            self.margin -= self.margin * closed / abs(self.amount)
            self.amount += sign * closed
        if opened := abs(quantity) - closed:
            if not self.amount:
                # Who holds a position at the time of a funding takes part in it.
                self.entry, self.margin, self.funded_ms = ZERO, ZERO, now_ms - 1
            held = abs(self.amount)
            self.entry = (self.entry * held + price * opened) / (held + opened)
            self.margin += price * opened / self.leverage
            self.amount += sign * opened
        if not self.amount:
            self.entry = self.margin = ZERO
        self.updated_ms = now_ms
        return profit

    def profit_at(self, price: Decimal) -> Decimal:
        """The profit that is not realized, at a price."""
        return self.amount * (price - self.entry)

    def liquidation_price(self, ratio: Decimal, deduction: Decimal) -> Decimal:
        """At which mark price the margin no longer suffices; 0 where there is no such price.

        https://www.binance.com/en/support/faq/b3c689c1f50a44cabb3a84e663b81d93

        :param ratio: maintenance margin by notional
        :param deduction: Binance's maintenance amount of the bracket
        """
        if not self.amount:
            return ZERO
        held, sign = abs(self.amount), 1 if self.amount > 0 else -1
        price = (self.margin + deduction - sign * held * self.entry) / (held * ratio - sign * held)
        return max(price, ZERO)
