"""Which orders a futures exchange takes: parameters, filters and limits, with Binance's refusals.

https://developers.binance.com/docs/derivatives/usds-margined-futures/error-code
"""

import itertools
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from mtfscalper.offline.binance import MIN_NOTIONAL, BinanceError, ReplayMarket
from mtfscalper.offline.ledger import OrderRequest

ORDERS = ("LIMIT", "MARKET")
CONDITIONAL = ("STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET")
TIMES_IN_FORCE = ("GTC", "IOC", "FOK", "GTX")
_WORKING_TYPES = ("CONTRACT_PRICE", "MARK_PRICE")
_unnamed = itertools.count(1)


class Parameters:
    """The parameters of a signed request."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        """A parameter that has to be there.

        :raises BinanceError: when it is not
        """
        value = self._values.get(name)
        if not value:
            raise BinanceError(400, -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        return value

    def find(self, name: str) -> str | None:
        """A parameter that need not be there."""
        return self._values.get(name) or None

    def choice(self, name: str, accepted: tuple[str, ...], otherwise: str | None = None) -> str:
        """A parameter out of a list.

        :param otherwise: what a parameter that is not there means; None requires it
        """
        value = self._values.get(name, otherwise) if otherwise is not None else self.text(name)
        if value not in accepted:
            code = -1116 if name in ("type", "orderType") else -1130
            raise BinanceError(400, code, f"Invalid {name}: {value!r}; accepted: {', '.join(accepted)}.")
        return value

    def number(self, name: str) -> Decimal:
        """A number that has to be there."""
        try:
            return Decimal(self.text(name))
        except InvalidOperation as error:
            raise BinanceError(400, -1102, f"Parameter '{name}' is {self.text(name)!r}, no number.") from error

    def integer(self, name: str) -> int | None:
        """A whole number that need not be there."""
        return None if self.find(name) is None else int(self.number(name))

    def flag(self, name: str) -> bool:
        """A truth that need not be there."""
        return self._values.get(name, "false").lower() == "true"


def read_order(given: Parameters, market: ReplayMarket) -> OrderRequest:
    """An order as ``POST /fapi/v1/order`` is given it.

    :raises BinanceError: naming what is refused
    """
    kind = given.text("type")
    if kind in CONDITIONAL or kind == "TRAILING_STOP_MARKET":
        raise BinanceError(
            400,
            -4120,
            "Order type not supported for this endpoint. Please use the Algo Order API endpoints instead.",
        )
    return _read(given, given.choice("type", ORDERS), "newClientOrderId", market)


def read_conditional(given: Parameters, market: ReplayMarket) -> OrderRequest:
    """An order as ``POST /fapi/v1/algoOrder`` is given it.

    :raises BinanceError: naming what is refused
    """
    given.choice("algoType", ("CONDITIONAL",))
    order = _read(given, given.choice("type", CONDITIONAL), "clientAlgoId", market)
    trigger = given.number("triggerPrice")
    _check_price(trigger, market.steps(order.symbol)[0])
    by_mark = given.choice("workingType", _WORKING_TYPES, "CONTRACT_PRICE") == "MARK_PRICE"
    return order._replace(trigger=trigger, by_mark=by_mark)


def check_notional(order: OrderRequest, price: Decimal) -> None:
    """Refuse an order that is too small.

    :param price: at which it would be filled
    """
    if not order.reduce_only and order.quantity * price < MIN_NOTIONAL:
        message = f"Order's notional must be no smaller than {MIN_NOTIONAL} (unless you choose reduce only)."
        raise BinanceError(400, -4164, message)


def _read(given: Parameters, kind: str, client_key: str, market: ReplayMarket) -> OrderRequest:
    symbol = given.text("symbol")
    price_step, quantity_step = market.steps(symbol)
    if given.choice("positionSide", ("BOTH", "LONG", "SHORT"), "BOTH") != "BOTH":
        raise BinanceError(400, -4061, "Order's position side does not match user's setting.")
    if given.flag("closePosition"):
        raise BinanceError(400, -4136, "Target strategy invalid: closePosition is not simulated; send a quantity.")
    quantity = given.number("quantity")
    if quantity <= 0:
        raise BinanceError(400, -4003, "Quantity less than or equal to zero.")
    if quantity % quantity_step:
        raise BinanceError(400, -1111, f"Precision is over the maximum defined for this asset: {quantity_step:f}.")
    price = None
    time_in_force = "GTC"
    if kind in ("LIMIT", "STOP", "TAKE_PROFIT"):
        price = given.number("price")
        _check_price(price, price_step)
        # Binance asks for it of a limit order alone.
        needed = None if kind == "LIMIT" else "GTC"
        time_in_force = given.choice("timeInForce", TIMES_IN_FORCE, needed)
    client_id = given.find(client_key) or f"unnamed{next(_unnamed)}"
    is_buy = given.choice("side", ("BUY", "SELL")) == "BUY"
    return OrderRequest(client_id, symbol, is_buy, kind, quantity, price, time_in_force, given.flag("reduceOnly"))


def _check_price(price: Decimal, step: Decimal) -> None:
    if price <= 0:
        raise BinanceError(400, -4001, "Price less than or equal to zero.")
    if price % step:
        raise BinanceError(400, -4014, f"Price not increased by tick size: {step:f}.")


def as_times(given: Parameters, limit: int) -> dict[str, Any]:
    """From when, until when, and how many entries of a history are asked for.

    :param limit: how many are given where nobody says
    """
    return {
        "since_ms": given.integer("startTime") or 0,
        "until_ms": given.integer("endTime") or 2**62,
        "limit": given.integer("limit") or limit,
    }
