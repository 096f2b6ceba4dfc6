"""How long entries that were not made would have held their pair."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mtfscalper.envs.episodes import candles_of
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.reliving import Entries, relive
from mtfscalper.trading.trading_rules import TradingRules


class Lives:
    """Lets single entries live, at the open of their candle, until their stop, ROI or longest duration."""

    def __init__(self, tapes: Mapping[str, MarketTape], rules: Mapping[str, TradingRules]) -> None:
        """
        :param tapes: the candles of the run, by pair
        :param rules: what ends trades, by pair
        """
        self._tapes, self._rules = tapes, rules
        self._candles = {pair: candles_of([tape]) for pair, tape in tapes.items()}

    def end_ms(self, pair: str, side: str, candle: int) -> int:
        """The candle of the exit, milliseconds since 1970; that of the entry where the data have no candle of it.

        :param candle: of the entry
        """
        tape, rules = self._tapes.get(pair), self._rules.get(pair)
        first = -1 if tape is None else int(np.searchsorted(tape.dates_ms, candle))
        if tape is None or rules is None or first >= len(tape) - 1 or tape.dates_ms[first] != candle:
            return candle
        is_short = side == "short"
        leverage = rules.leverage_short if is_short else rules.leverage_long
        entry = Entries(
            is_short=np.array([is_short]),
            first=np.array([first]),
            open_rate=tape.open[first : first + 1],
            # Where it depends on the candle, nobody has asked the strategy.
            leverage=np.array([leverage or 1.0]),
        )
        return int(tape.dates_ms[relive(entry, self._candles[pair], rules).candle[0]])
