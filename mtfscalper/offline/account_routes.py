"""The signed endpoints of the loopback exchange: what ccxt asks Binance USDⓈ-M about an account, and its answers.

Whatever key is sent has to be the placeholder that stands for simulated money; signatures are not looked at.

Endpoints: https://developers.binance.com/docs/derivatives/usds-margined-futures/trade/rest-api
"""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from mtfscalper.offline import SIMULATED_KEY
from mtfscalper.offline.account import MAKER_FEE, TAKER_FEE, SimulatedAccount, brackets, maintenance
from mtfscalper.offline.binance import BinanceError, Json, ReplayMarket
from mtfscalper.offline.faulty_app import SKEW_MS
from mtfscalper.offline.ledger import ZERO, Fill, Income, Order, Position
from mtfscalper.offline.order_rules import Parameters, as_times, read_conditional, read_order

Answer = Callable[[SimulatedAccount, ReplayMarket, Parameters], Any]
# How far ahead of the exchange a client's clock may be, and how far behind where it does not say, in milliseconds.
AHEAD_MS, RECEIVE_WINDOW_MS = 1_000, 5_000


def add_account_routes(app: FastAPI, account: SimulatedAccount, market: Callable[[], ReplayMarket]) -> None:
    """Let an application answer for an account.

    :param market: the market of the moment, by the exchange's own clock
    """
    for (method, path), answer in _ANSWERS.items():
        app.add_api_route(path, _endpoint(answer, account, market), methods=[method])


def _endpoint(
    answer: Answer, account: SimulatedAccount, market: Callable[[], ReplayMarket]
) -> Callable[[Request], Awaitable[JSONResponse]]:
    # Not in threads of their own: one request after the other changes the account.
    async def endpoint(request: Request) -> JSONResponse:
        body = (await request.body()).decode()
        given = Parameters({**request.query_params, **dict(parse_qsl(body, keep_blank_values=True))})
        _check_client(request, given)
        now = market()
        account.advance(now)
        return JSONResponse(answer(account, now, given))

    return endpoint


def _check_client(request: Request, given: Parameters) -> None:
    if request.headers.get("X-MBX-APIKEY") != SIMULATED_KEY:
        message = (
            f"Invalid API-key, IP, or permissions for action. Simulated money has the key {SIMULATED_KEY!r} alone."
        )
        raise BinanceError(401, -2015, message)
    # Of a clock that is off on purpose; who lives by another clock altogether is answered.
    skew_ms = SKEW_MS.get()
    if skew_ms < -AHEAD_MS:
        message = f"Timestamp for this request was {AHEAD_MS}ms ahead of the server's time."
        raise BinanceError(400, -1021, message)
    if skew_ms > (given.integer("recvWindow") or RECEIVE_WINDOW_MS):
        raise BinanceError(400, -1021, "Timestamp for this request is outside of the recvWindow.")


# ---------------------------------------------------------------------- account


def _balance_sheet(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> Json:
    positions = [_position(account, market, symbol) for symbol in account.symbols]
    initial = sum((Decimal(one["initialMargin"]) for one in positions), start=ZERO)
    maintained = sum((Decimal(one["maintMargin"]) for one in positions), start=ZERO)
    profit = sum((Decimal(one["unRealizedProfit"]) for one in positions), start=ZERO)
    margin = sum((Decimal(one["isolatedWallet"]) for one in positions), start=ZERO)
    sheet = {
        "walletBalance": account.wallet,
        "unrealizedProfit": profit,
        "marginBalance": account.wallet + profit,
        "maintMargin": maintained,
        "initialMargin": initial,
        "positionInitialMargin": initial - account.order_margin,
        "openOrderInitialMargin": account.order_margin,
        "crossWalletBalance": account.wallet - margin,
        "crossUnPnl": ZERO,
        "availableBalance": max(account.available, ZERO),
        "maxWithdrawAmount": max(account.available, ZERO),
    }
    texts = {name: _text(value) for name, value in sheet.items()}
    totals = {f"total{name[0].upper()}{name[1:]}": text for name, text in texts.items() if "ithdraw" not in name}
    return {
        "feeTier": 0,
        "canTrade": True,
        "canDeposit": False,
        "canWithdraw": False,
        "multiAssetsMargin": False,
        "updateTime": 0,
        **totals,
        "availableBalance": texts["availableBalance"],
        "maxWithdrawAmount": texts["maxWithdrawAmount"],
        "assets": [{"asset": account.asset, **texts, "marginAvailable": True, "updateTime": market.now_ms}],
        "positions": [one | {"unrealizedProfit": one["unRealizedProfit"]} for one in positions],
    }


def _balances(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> list[Json]:
    [asset] = _balance_sheet(account, market, given)["assets"]
    return [asset | {"accountAlias": "simulated", "balance": asset["walletBalance"]}]


def _position(account: SimulatedAccount, market: ReplayMarket, symbol: str) -> Json:
    position: Position = account.position(symbol)
    mark = Decimal(str(market.mark_price(symbol)))
    notional = position.amount * mark
    pair = market.pairs[symbol]
    ratio, deduction = maintenance(pair, abs(notional))
    orders = sum((account.margin_of(order) for order in account.orders.values() if order.asked.symbol == symbol), ZERO)
    held = abs(notional) / position.leverage
    profit = position.profit_at(mark)
    return {
        "symbol": symbol,
        "positionSide": "BOTH",
        "positionAmt": f"{position.amount:f}",
        "entryPrice": _text(position.entry),
        "breakEvenPrice": _text(position.entry),
        "markPrice": _text(mark),
        "unRealizedProfit": _text(profit),
        "liquidationPrice": _text(account.liquidation_price(symbol, pair)),
        "isolatedMargin": _text(position.margin + profit if position.amount else ZERO),
        "isolatedWallet": _text(position.margin),
        "notional": _text(notional),
        "marginAsset": account.asset,
        "leverage": str(position.leverage),
        "marginType": "isolated" if position.is_isolated else "cross",
        "isolated": position.is_isolated,
        "initialMargin": _text(held + orders),
        "maintMargin": _text(max(abs(notional) * ratio - deduction, ZERO)),
        "positionInitialMargin": _text(held),
        "openOrderInitialMargin": _text(orders),
        "adl": 0,
        "bidNotional": "0",
        "askNotional": "0",
        "updateTime": position.updated_ms,
    }


def _positions(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> list[Json]:
    wanted = given.find("symbol")
    return [_position(account, market, symbol) for symbol in account.symbols if wanted in (None, symbol)]


def _brackets(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> list[Json]:
    wanted = given.find("symbol")
    pairs = {symbol: pair for symbol, pair in market.pairs.items() if wanted in (None, symbol)}
    return [{"symbol": symbol, "notionalCoef": 1.0, "brackets": brackets(pair)} for symbol, pair in pairs.items()]


def _set_leverage(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> Json:
    symbol, leverage = _symbol(given, market), given.integer("leverage") or 0
    account.set_leverage(symbol, leverage, market.pairs[symbol])
    largest = max(one["notionalCap"] for one in brackets(market.pairs[symbol]) if one["initialLeverage"] >= leverage)
    return {"symbol": symbol, "leverage": leverage, "maxNotionalValue": str(largest)}


def _set_margin_mode(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> Json:
    account.set_margin_mode(_symbol(given, market), given.choice("marginType", ("ISOLATED", "CROSSED")))
    return {"code": 200, "msg": "success"}


def _fees(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> Json:
    rates = {"makerCommissionRate": str(MAKER_FEE), "takerCommissionRate": str(TAKER_FEE)}
    return {"symbol": _symbol(given, market), **rates}


# ---------------------------------------------------------------------- orders


def _order(order: Order) -> Json:
    asked = order.asked
    return {
        "symbol": asked.symbol,
        "orderId": order.number,
        "clientOrderId": asked.client_id,
        "status": order.status,
        "type": asked.kind,
        "origType": asked.kind,
        "side": asked.side,
        "positionSide": "BOTH",
        "price": f"{asked.price or ZERO:f}",
        "avgPrice": _text(order.average),
        "origQty": f"{order.quantity:f}",
        "executedQty": f"{order.filled:f}",
        "cumQty": f"{order.filled:f}",
        "cumQuote": _text(order.quote),
        "timeInForce": asked.time_in_force,
        "reduceOnly": asked.reduce_only,
        "closePosition": False,
        "stopPrice": "0",
        "workingType": "CONTRACT_PRICE",
        "priceProtect": False,
        "priceMatch": "NONE",
        "selfTradePreventionMode": "EXPIRE_MAKER",
        "goodTillDate": 0,
        "time": order.created_ms,
        "updateTime": order.updated_ms,
    }


def _conditional(order: Order) -> Json:
    asked = order.asked
    return {
        "algoId": order.number,
        "clientAlgoId": asked.client_id,
        "algoType": "CONDITIONAL",
        "algoStatus": order.status,
        "orderType": asked.kind,
        "symbol": asked.symbol,
        "side": asked.side,
        "positionSide": "BOTH",
        "timeInForce": asked.time_in_force,
        "quantity": f"{order.quantity:f}",
        "triggerPrice": f"{asked.trigger or ZERO:f}",
        "price": f"{asked.price or ZERO:f}",
        "workingType": "MARK_PRICE" if asked.by_mark else "CONTRACT_PRICE",
        "reduceOnly": asked.reduce_only,
        "closePosition": False,
        "priceProtect": False,
        "actualOrderId": "" if order.placed is None else str(order.placed),
        "createTime": order.created_ms,
        "updateTime": order.updated_ms,
        "triggerTime": order.updated_ms if order.placed is not None else 0,
        "goodTillDate": 0,
    }


def _place(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> Json:
    return _order(account.place(read_order(given, market), market))


def _place_conditional(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> Json:
    return _conditional(account.place_conditional(read_conditional(given, market), market))


def _found(orders: dict[int, Order], given: Parameters, number: str, client: str) -> Order | None:
    """The order that a request names: by its number, or by the client's name of it, the last one of that name."""
    if (wanted := given.integer(number)) is not None:
        return orders.get(wanted)
    name = given.text(client)
    return next((order for order in reversed(orders.values()) if order.asked.client_id == name), None)


def _show(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> Json:
    order = _found(account.orders, given, "orderId", "origClientOrderId")
    if order is None or order.asked.symbol != _symbol(given, market):
        raise BinanceError(400, -2013, "Order does not exist.")
    return _order(order)


def _cancel(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> Json:
    order = _found(account.orders, given, "orderId", "origClientOrderId")
    if order is None or not order.is_open or order.asked.symbol != _symbol(given, market):
        raise BinanceError(400, -2011, "Unknown order sent.")
    order.end("CANCELED", market.now_ms)
    return _order(order)


def _cancel_all(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> Json:
    symbol = _symbol(given, market)
    for order in account.orders.values():
        if order.is_open and order.asked.symbol == symbol:
            order.end("CANCELED", market.now_ms)
    return {"code": 200, "msg": "The operation of cancel all open order is done."}


def _show_conditional(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> Json:
    order = _found(account.conditional, given, "algoId", "clientAlgoId")
    if order is None:
        raise BinanceError(400, -2013, "Order does not exist.")
    return _conditional(order)


def _cancel_conditional(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> Json:
    order = _found(account.conditional, given, "algoId", "clientAlgoId")
    if order is None or not order.is_open:
        raise BinanceError(400, -2011, "Unknown order sent.")
    order.end("CANCELED", market.now_ms)
    return {"algoId": order.number, "clientAlgoId": order.asked.client_id, "code": "200", "msg": "success"}


def _listed(orders: dict[int, Order], show: Callable[[Order], Json], only_open: bool, given: Parameters) -> list[Json]:
    symbol, times = given.find("symbol"), as_times(given, 500)
    chosen = [
        order
        for order in orders.values()
        if symbol in (None, order.asked.symbol)
        and (order.is_open if only_open else times["since_ms"] <= order.created_ms <= times["until_ms"])
    ]
    return [show(order) for order in chosen[: times["limit"]]]


# ---------------------------------------------------------------------- histories


def _fill(fill: Fill, asset: str) -> Json:
    return {
        "symbol": fill.symbol,
        "id": fill.number,
        "orderId": fill.order,
        "side": "BUY" if fill.is_buy else "SELL",
        "positionSide": "BOTH",
        "price": f"{fill.price:f}",
        "qty": f"{fill.quantity:f}",
        "quoteQty": _text(fill.price * fill.quantity),
        "commission": _text(fill.fee),
        "commissionAsset": asset,
        "realizedPnl": _text(fill.profit),
        "buyer": fill.is_buy,
        "maker": fill.is_maker,
        "time": fill.time_ms,
    }


def _fills(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> list[Json]:
    symbol, order, times = _symbol(given, market), given.integer("orderId"), as_times(given, 500)
    chosen = [
        fill
        for fill in account.fills
        if fill.symbol == symbol
        and order in (None, fill.order)
        and times["since_ms"] <= fill.time_ms <= times["until_ms"]
    ]
    return [_fill(fill, account.asset) for fill in chosen[: times["limit"]]]


def _income(number: int, income: Income, asset: str) -> Json:
    return {
        "symbol": income.symbol,
        "incomeType": income.kind,
        "income": _text(income.amount),
        "asset": asset,
        "info": income.kind,
        "time": income.time_ms,
        "tranId": number,
        "tradeId": "" if income.fill is None else str(income.fill),
    }


def _incomes(account: SimulatedAccount, market: ReplayMarket, given: Parameters) -> list[Json]:
    symbol, kind, times = given.find("symbol"), given.find("incomeType"), as_times(given, 100)
    chosen = [
        (number, income)
        for number, income in enumerate(account.incomes, start=1)
        if symbol in (None, income.symbol)
        and kind in (None, income.kind)
        and times["since_ms"] <= income.time_ms <= times["until_ms"]
    ]
    return [_income(number, income, account.asset) for number, income in chosen[: times["limit"]]]


def _symbol(given: Parameters, market: ReplayMarket) -> str:
    symbol = given.text("symbol")
    market.steps(symbol)
    return symbol


def _text(value: Decimal) -> str:
    return f"{value:.8f}"


_ANSWERS: dict[tuple[str, str], Answer] = {
    ("GET", "/fapi/v1/positionSide/dual"): lambda account, market, given: {"dualSidePosition": False},
    ("GET", "/fapi/v1/multiAssetsMargin"): lambda account, market, given: {"multiAssetsMargin": False},
    ("GET", "/fapi/v2/account"): _balance_sheet,
    ("GET", "/fapi/v3/account"): _balance_sheet,
    ("GET", "/fapi/v2/balance"): _balances,
    ("GET", "/fapi/v3/balance"): _balances,
    ("GET", "/fapi/v2/positionRisk"): _positions,
    ("GET", "/fapi/v3/positionRisk"): _positions,
    ("GET", "/fapi/v1/leverageBracket"): _brackets,
    ("GET", "/fapi/v1/commissionRate"): _fees,
    ("POST", "/fapi/v1/leverage"): _set_leverage,
    ("POST", "/fapi/v1/marginType"): _set_margin_mode,
    ("POST", "/fapi/v1/order"): _place,
    ("GET", "/fapi/v1/order"): _show,
    ("DELETE", "/fapi/v1/order"): _cancel,
    ("DELETE", "/fapi/v1/allOpenOrders"): _cancel_all,
    ("GET", "/fapi/v1/openOrders"): lambda account, market, given: _listed(account.orders, _order, True, given),
    ("GET", "/fapi/v1/allOrders"): lambda account, market, given: _listed(account.orders, _order, False, given),
    ("POST", "/fapi/v1/algoOrder"): _place_conditional,
    ("GET", "/fapi/v1/algoOrder"): _show_conditional,
    ("DELETE", "/fapi/v1/algoOrder"): _cancel_conditional,
    ("GET", "/fapi/v1/openAlgoOrders"): lambda account, market, given: _listed(
        account.conditional, _conditional, True, given
    ),
    ("GET", "/fapi/v1/allAlgoOrders"): lambda account, market, given: _listed(
        account.conditional, _conditional, False, given
    ),
    ("GET", "/fapi/v1/userTrades"): _fills,
    ("GET", "/fapi/v1/income"): _incomes,
    # What ccxt asks with any key, of the markets that are not here: there is nothing to say.
    ("GET", "/sapi/v1/capital/config/getall"): lambda account, market, given: [],
    ("GET", "/sapi/v1/margin/allPairs"): lambda account, market, given: [],
}
