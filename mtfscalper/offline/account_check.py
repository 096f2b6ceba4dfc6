"""A live bot's database beside the account of the exchange: what both say alike, and by name what they do not."""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.table import Table

from mtfscalper.offline.account import SimulatedAccount
from mtfscalper.offline.bot_database import read_table
from mtfscalper.offline.ledger import Fill

# Of money, in quote currency: the database has binary fractions, and rounds the profit of each trade to eight decimals.
_ALIKE = 1e-4


class AccountCheck(NamedTuple):
    """Both sides, and what differs.

    :ivar positions: by pair that either side has traded, in base currency, of the exchange and of the bot's open trades
    :ivar wallet: of the exchange, and what it has to be by the bot's trades
    :ivar fills: how many both have
    :ivar differences: a sentence each
    """

    positions: dict[str, tuple[float, float]]
    wallet: tuple[float, float]
    fills: int
    differences: tuple[str, ...]

    @classmethod
    def of(cls, database: Path, account: SimulatedAccount, pairs: dict[str, str]) -> "AccountCheck":
        """Compare.

        :param database: of the bot, which has ended
        :param account: of the exchange, brought up to the moment
        :param pairs: freqtrade's names by Binance's symbols
        """
        trades, orders = _read(database)
        used = {order.asked.symbol for order in account.orders.values()}
        traded = {symbol: pair for symbol, pair in pairs.items() if symbol in used or pair in set(trades["pair"])}
        positions = {pair: _positions(symbol, pair, account, trades) for symbol, pair in traded.items()}
        known = set(orders.loc[orders["filled"] > 0, "order_id"])
        filled = {str(fill.order): fill for fill in account.fills}
        wallet = float(account.wallet), _wallet_by(trades, float(account.start_balance))
        differences = [
            f"{pair}: the exchange holds {theirs:+g}, the bot's open trades {own:+g}"
            for pair, (theirs, own) in positions.items()
            if abs(theirs - own) > 1e-9
        ]
        differences += [
            f"order {number}: {_said(fill, pairs)}; the bot knows nothing of it"
            for number, fill in filled.items()
            if number not in known
        ]
        differences += [
            f"order {number} is filled in the bot's database, and not on the exchange"
            for number in sorted(known - set(filled))
        ]
        differences += _prices(orders, filled)
        if abs(wallet[0] - wallet[1]) > _ALIKE:
            differences.append(
                f"the wallet has {wallet[0]:.4f}, by the bot's trades it would be {wallet[1]:.4f}: "
                f"{wallet[0] - wallet[1]:+.4f}"
            )
        return cls(positions, wallet, len(known & set(filled)), tuple(differences))

    def table(self, asset: str) -> Table:
        """Both sides as a table, without what differs.

        :param asset: the quote currency
        """
        table = Table(title="simulated money: the exchange and the bot's database", title_justify="left")
        for name in ("", "exchange", "bot"):
            table.add_column(name)
        for pair, (theirs, own) in self.positions.items():
            table.add_row(pair, f"{theirs:+g}", f"{own:+g}")
        table.add_row(f"wallet, {asset}", *(f"{amount:.4f}" for amount in self.wallet))
        table.add_row("orders that both have filled", str(self.fills), str(self.fills))
        return table


def _read(database: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    trades = ["pair", "is_open", "is_short", "amount", "open_rate", "fee_open", "funding_fees", "close_profit_abs"]
    orders = read_table(database, "orders", ["order_id", "filled", "average"])
    return read_table(database, "trades", trades), orders.fillna({"filled": 0.0})


def _positions(symbol: str, pair: str, account: SimulatedAccount, trades: pd.DataFrame) -> tuple[float, float]:
    own = trades[(trades["pair"] == pair) & (trades["is_open"] == 1)]
    return float(account.position(symbol).amount), float((own["amount"] * (1 - 2 * own["is_short"])).sum())


def _wallet_by(trades: pd.DataFrame, start: float) -> float:
    """What the wallet has to be: profits of closed trades, and of open ones the fee and the funding that were paid."""
    closed, opened = trades[trades["is_open"] == 0], trades[trades["is_open"] == 1]
    paid = opened["funding_fees"].fillna(0) - opened["amount"] * opened["open_rate"] * opened["fee_open"]
    return start + float(closed["close_profit_abs"].sum()) + float(paid.sum())


def _prices(orders: pd.DataFrame, filled: dict[str, Fill]) -> list[str]:
    apart = []
    known = orders[orders["filled"] > 0]
    for number, quantity, price in zip(known["order_id"], known["filled"], known["average"], strict=True):
        fill = filled.get(str(number))
        if fill is None:
            continue
        is_alike = abs(float(quantity) - float(fill.quantity)) < 1e-9
        if not is_alike or abs(float(price) / float(fill.price) - 1) > 1e-6:
            apart.append(
                f"order {number}: the exchange filled {fill.quantity} at {fill.price}, the bot has "
                f"{float(quantity):g} at {float(price):g}"
            )
    return apart


def _said(fill: Fill, pairs: dict[str, str]) -> str:
    moment = datetime.fromtimestamp(fill.time_ms / 1000, UTC)
    side = "bought" if fill.is_buy else "sold"
    return f"{side} {fill.quantity} of {pairs[fill.symbol]} at {fill.price}, {moment:%Y-%m-%d %H:%M:%S} UTC"
