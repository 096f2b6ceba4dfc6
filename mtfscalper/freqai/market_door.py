"""The markets that an exchange sends to a bot, looked at before freqtrade takes them for those that there are."""

from __future__ import annotations

from typing import Any

from freqtrade.exceptions import TemporaryError
from freqtrade.exchange import Exchange

from mtfscalper.freqai.owner import Owner

_TROUBLE = "markets"


def guard_markets(exchange: Exchange, owner: Owner) -> None:
    """Keep the markets of a bot where an answer holds none.

    freqtrade asks for them once an hour. It takes an empty answer, or the half of one, for an exchange without markets,
    and stops the trader with all its open trades until somebody sends ``/start``. Here the markets of before stay, and
    freqtrade asks again in its next loop, as it does after an answer that never came.

    :param exchange: of the bot, whose markets have been loaded
    """
    load = exchange._load_async_markets

    def load_or_keep(*args: Any, **named: Any) -> None:
        load(*args, **named)
        if exchange._api_async.markets:
            owner.healed(_TROUBLE, "the exchange tells its markets again.")
            return
        # The other client of the two has them from the last good answer.
        exchange._api_async.set_markets_from_exchange(exchange._api)
        message = (
            "the exchange sent no markets at all; accepted: at least one; those of before stay, and it is asked again "
            "in the next loop; nothing need be done unless this lasts: then look at the exchange's status"
        )
        owner.trouble(_TROUBLE, message)
        raise TemporaryError(message)

    # freqtrade has no hook between an answer and its markets.
    exchange._load_async_markets = load_or_keep  # type: ignore[method-assign]
