"""Whether a strategy gives back every candle after ``freqai.start``: freqtrade refuses others, once all is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from freqtrade.enums import TRADE_MODES
from freqtrade.exceptions import OperationalException
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.freqai.asked_pairs import NotAskedError, copy_of
from mtfscalper.freqai.columns import KNOWN_COLUMNS

# Those in which indicators have no value yet, and some more: enough to see dropna, and soon computed.
_CANDLES = 1_000


class _Answers:
    """Stands for the FreqAI model in a strategy that is asked: a policy that never acts."""

    def start(self, dataframe: DataFrame, metadata: dict[str, Any], strategy: IStrategy) -> DataFrame:
        """What FreqAI adds to a frame, without a training."""
        moments = {f"{name}_{kind}": 0.0 for name in KNOWN_COLUMNS for kind in ("mean", "std")}
        return dataframe.assign(**dict.fromkeys(KNOWN_COLUMNS, 0.0), **moments, do_predict=1)


def check_rows_returned(strategy: IStrategy, config: Mapping[str, Any], pair: str) -> None:
    """Let a copy of a strategy compute a backtest's first candles, and look whether it gives all of them back.

    :raises OperationalException: naming how many it gives back
    """
    data = getattr(strategy, "dp", None)
    if data is None or config.get("runmode") in TRADE_MODES or strategy.disable_dataframe_checks:
        return
    try:
        asked = copy_of(strategy)
        asked.freqai = cast(Any, _Answers())
        candles = data.get_pair_dataframe(pair, strategy.timeframe).head(_CANDLES)
        given = asked.advise_indicators(candles.copy(), {"pair": pair})
    except NotAskedError:
        return
    except Exception:
        # It may need what is trained, or more candles; whatever is wrong with it, freqtrade says in its place.
        return
    if isinstance(given, DataFrame) and len(given) == len(candles):
        return
    said = f"{len(given)} of {len(candles)} candles" if isinstance(given, DataFrame) else repr(given)
    raise OperationalException(
        f"{type(strategy).__name__}.populate_indicators gives back {said} for {pair}, which freqtrade refuses once all "
        "is trained; accepted: a frame with every candle that it was given; remedy: leave out dropna and whatever else "
        "removes rows, and enter only where no value is missing"
    )
