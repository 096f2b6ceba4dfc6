"""A position on the exchange of which a live bot knows no trade: what an order leaves whose answer was lost.

freqtrade takes an entry without an answer for one that was not carried out, and enters again at its next pass: two
positions and one trade, of which the exit later leaves the other half on the exchange, without a stop.
"""

from __future__ import annotations

from typing import cast

from freqtrade.enums import RunMode, TradingMode
from freqtrade.strategy import IStrategy
from freqtrade.wallets import Wallets

from mtfscalper.freqai.owner import Owner

# The owner's name for it begins so, and ends with the pair.
_TROUBLE = "unknown position "
# Of a strategy: whom it tells.
_OWNER = "_unknown_position_owner"


def has_unknown_position(strategy: IStrategy, pair: str) -> bool:
    """Whether the exchange holds a position of a pair that a bot is about to enter; its owner is told.

    The exchange is asked, for freqtrade looks at it once an hour and after its own orders.

    :param strategy: of a bot; in other run modes than live there is no such position
    :param pair: in which no trade of the bot's is open
    """
    config = strategy.config
    if config.get("runmode") != RunMode.LIVE or config.get("trading_mode") != TradingMode.FUTURES:
        return False
    owner = _owner_of(strategy)
    wallets = cast(Wallets, strategy.wallets)
    wallets.update()
    positions = wallets.get_all_positions()
    for other in [name.removeprefix(_TROUBLE) for name in owner.troubles if name.startswith(_TROUBLE)]:
        # Of a pair that has left the whitelist nobody asks any more.
        if other not in positions:
            owner.healed(
                _TROUBLE + other, f"{other}: the position that no trade knew of is gone; the pair is entered again."
            )
    position = positions.get(pair)
    if position is None:
        return False
    owner.trouble(
        _TROUBLE + pair,
        f"{pair}: the exchange holds a {position.side} position of {position.position:g} of which this bot knows no "
        "trade: maybe of an order whose answer was lost. It has no stop, and the pair is not entered until it is gone. "
        "Close it on the exchange.",
    )
    return True


def _owner_of(strategy: IStrategy) -> Owner:
    """Whom the bot's model tells, so that its health says so too; without such a model, one of the strategy's own."""
    owner = getattr(getattr(getattr(strategy, "freqai", None), "dd", None), "owner", None)
    if isinstance(owner, Owner):
        return owner
    own: Owner = vars(strategy).setdefault(_OWNER, Owner())
    own.reach_by(strategy.dp)
    return own
