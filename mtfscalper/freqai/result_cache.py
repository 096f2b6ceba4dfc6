"""freqtrade's cache of results (``--cache``), which knows nothing of policies: switched off where they are traded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from freqtrade.enums import RunMode
from freqtrade.strategy import IStrategy

logger = logging.getLogger(__name__)

_KEY = "backtest_cache"
_OFF = "none"
# freqtrade hashes all of a strategy's config into the name by which it finds an earlier result.
_BEGUN = "mtfscalper_begun"


def never_reuse_results(config: dict[str, Any]) -> None:
    """Let freqtrade backtest anew, where by default it prints a result of the last day.

    It goes by the config and the strategy's own file. What else makes a result, it does not see: candles, the FreqAI
    model's file, the user's own code, helpers of the strategy, this package, fees and tiers. Which policies still hold
    is known of each period, and those are reused.

    :param config: the freqtrade config that a strategy is made with, before freqtrade looks for an earlier result
    """
    # FreqUI's backtests run in the webserver, and ask its user.
    is_backtest = config.get("runmode") in (RunMode.BACKTEST, RunMode.WEBSERVER)
    if not is_backtest or not (config.get("freqai") or {}).get("enabled", False):
        return
    if config.get(_KEY, _OFF) != _OFF:
        logger.info(
            "freqtrade's --cache %s is off: it would print an earlier result though policies, candles or code have "
            "changed. Policies that still hold are reused.",
            config[_KEY],
        )
    config[_KEY] = _OFF
    if config.get("strategy_list"):
        # Each strategy has a copy of the config, and the one that says whether results are reused is out of reach.
        config[_BEGUN] = datetime.now(UTC).isoformat()


def tell_of_reused_results(strategy: IStrategy, config: Mapping[str, Any]) -> None:
    """Warn where nothing has switched freqtrade's cache of results off.

    A strategy with neither the mixin nor :class:`~mtfscalper.freqai.trade_decisions.TradeDecisions` is made before
    anything of this package is: freqtrade looks for an earlier result before it loads a FreqAI model.

    :param config: the freqtrade config
    """
    age = config.get(_KEY, _OFF)
    if config.get("runmode") != RunMode.BACKTEST or age == _OFF:
        return
    logger.warning(
        "freqtrade's --cache is '%s': it prints this result again for as long, whatever becomes of candles, policies, "
        "rewards and helpers, for %s has neither PolicyExits nor TradeDecisions, which switch that off. Remedy: give "
        "--cache none.",
        age,
        type(strategy).__name__,
    )
