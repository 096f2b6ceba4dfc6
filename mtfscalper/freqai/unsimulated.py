"""What of a strategy and its config training does not simulate: named once, before anything is trained.

Which methods count is found by comparing the strategy's with freqtrade's own, so that one that freqtrade adds later is
named too. docs/simulated.md says of each what public strategies use it for, and why it was left.
"""

from __future__ import annotations

import dis
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from types import CodeType, FunctionType
from typing import Any, NamedTuple, TypeVar

from freqtrade.enums import TRADE_MODES, MarginMode, TradingMode
from freqtrade.exchange import timeframe_to_seconds
from freqtrade.strategy import IStrategy

from mtfscalper.freqai.expiry import Expiry
from mtfscalper.freqai.unconnected import pairs_of
from mtfscalper.settings import Settings
from mtfscalper.user_values import names_in

logger = logging.getLogger(__name__)

_Method = TypeVar("_Method", bound=Callable[..., Any])

_ORIGINAL = "mtfscalper_original"


def carries_out_policy(method: _Method, original: Callable[..., Any] | None = None) -> _Method:
    """Mark a callback that only carries out what the policy was trained for, which is therefore not named.

    :param original: the user's method that it calls beside that, which is looked at in its place; None for none
    """
    setattr(method, _ORIGINAL, original)
    return method


class Unsimulated(NamedTuple):
    """Something that trades do and training does not.

    :ivar consequence: how trades then differ from those the policy learns, in half a sentence
    :ivar bots_only: whether a backtest does without it as training does
    """

    name: str
    consequence: str
    bots_only: bool = False


# Training does what they say.
SIMULATED_METHODS = frozenset(
    {
        "custom_stake_amount",
        "feature_engineering_expand_all",
        "feature_engineering_expand_basic",
        "feature_engineering_standard",
        "leverage",
        "populate_any_indicators",
        "populate_buy_trend",
        "populate_entry_trend",
        "populate_exit_trend",
        "populate_indicators",
        "populate_sell_trend",
        "set_freqai_targets",
    }
)

# No trade is another one because of them.
IRRELEVANT_METHODS = frozenset(
    {
        "bot_start",
        "enumerate_parameters",
        "ft_bot_cleanup",
        "ft_bot_start",
        "ft_load_hyper_params",
        "ft_plot_annotations",
        "ft_set_special_params_from_file",
        "gather_informative_pairs",
        "get_no_optimize_params",
        "get_strategy_name",
        "informative_pairs",
        "load_freqAI_model",
        "load_params_from_file",
        "plot_annotations",
        "version",
    }
)

_UNKNOWN = "a method of freqtrade's that this version of mtfscalper does not know, and training does without"
_WORKINGS = "freqtrade's own workings are changed by it, and training follows freqtrade's own"

# Where a strategy has its own.
NAMED_METHODS: Mapping[str, str] = {
    "adjust_entry_price": "entries may fill at another price and later, in training at the open",
    "adjust_exit_price": "exits may fill at another price and later, in training at the open",
    "adjust_order_price": "orders may fill at another price and later, in training at the open",
    "adjust_trade_position": "trades grow and shrink while they last, in training each has one entry and one exit",
    "bot_loop_start": "what it changes from candle to candle does not change in training",
    "check_buy_timeout": "entries may be given up, in training each fills",
    "check_entry_timeout": "entries may be given up, in training each fills",
    "check_exit_timeout": "exits may be given up, in training each fills",
    "check_sell_timeout": "exits may be given up, in training each fills",
    "confirm_trade_entry": "entries that it refuses are made in training",
    "confirm_trade_exit": "exits that it refuses are made in training",
    "custom_entry_price": "entries fill at its price or not at all, in training at the open",
    "custom_exit": "trades that it ends go on in training until the policy or a rule ends them",
    "custom_exit_price": "exits fill at its price or not at all, in training at the open",
    "custom_roi": "trades are closed at its profit, in training at that of minimal_roi alone",
    "custom_sell": "trades that it ends go on in training until the policy or a rule ends them",
    "custom_stoploss": "the stop moves as it says, in training it stays at stoploss, or trails as set",
    "order_filled": "what it does when an order fills is not done in training",
    **dict.fromkeys(
        (
            "advise_all_indicators",
            "advise_entry",
            "advise_exit",
            "advise_indicators",
            "analyze",
            "analyze_pair",
            "analyze_ticker",
            "ft_advise_signals",
            "ft_check_timed_out",
            "ft_stoploss_adjust",
            "ft_stoploss_reached",
            "get_entry_signal",
            "get_exit_signal",
            "get_latest_candle",
            "ignore_expired_candle",
            "is_pair_locked",
            "lock_pair",
            "min_roi_reached",
            "min_roi_reached_entry",
            "should_exit",
            "unlock_pair",
            "unlock_reason",
        ),
        _WORKINGS,
    ),
}

# freqtrade calls these only where a switch is on, or for orders of this type.
_SWITCHES = {
    "adjust_trade_position": "position_adjustment_enable",
    "custom_roi": "use_custom_roi",
    "custom_stoploss": "use_custom_stoploss",
}
_LOCK = "lock_pair"
# Asked before a training about every candle, by what is there then.
_ASKED_BEFORE = ("custom_stake_amount", "leverage")
_OF_THE_MOMENT = {"LocalTrade", "Trade", "wallets"}
_LIMIT_ORDERS = {"custom_entry_price": "entry", "custom_exit_price": "exit"}

_RETURN_CONST = "RETURN_CONST"
_ANYTHING = object()
# A method that gives nothing but these does nothing: templates are full of them.
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "adjust_trade_position": (None, 0),
    "bot_loop_start": (_ANYTHING,),
    "check_buy_timeout": (False, None),
    "check_entry_timeout": (False, None),
    "check_exit_timeout": (False, None),
    "check_sell_timeout": (False, None),
    "confirm_trade_entry": (True,),
    "confirm_trade_exit": (True,),
    "custom_entry_price": (None,),
    "custom_exit": (None, False),
    "custom_exit_price": (None,),
    "custom_roi": (None,),
    "custom_sell": (None, False),
    "custom_stoploss": (None,),
    "order_filled": (_ANYTHING,),
}

# As one that gives back what it was given.
_UNCHANGED: Mapping[str, str] = {
    "adjust_entry_price": "current_order_rate",
    "adjust_exit_price": "current_order_rate",
    "adjust_order_price": "current_order_rate",
    "custom_entry_price": "proposed_rate",
    "custom_exit_price": "proposed_rate",
}

# For whoever finds out that the exits of populate_exit_trend depend on the policy's columns.
EXITS_OF_COLUMNS = Unsimulated(
    "populate_exit_trend", "its exits depend on the policy's columns, and trades that it ends go on in training"
)


def name_unsimulated(
    strategy: IStrategy, config: Mapping[str, Any], settings: Settings, more: Iterable[Unsimulated] = ()
) -> None:
    """Warn of everything that will be traded and is not simulated, one line each; what only a bot meets is told apart.

    :param config: the freqtrade config
    :param more: what has been found elsewhere
    """
    found = [*unsimulated_methods(strategy), *_unsimulated_switches(strategy, config, settings), *more]
    is_bot = config.get("runmode") in TRADE_MODES
    now = [one for one in found if is_bot or not one.bots_only]
    later = [one for one in found if one not in now]
    name = type(strategy).__name__
    if now:
        logger.warning("%s is traded with what training does not simulate (docs/simulated.md):%s", name, _lines(now))
    if later:
        logger.info("%s: a bot meets what backtests and training do not simulate:%s", name, _lines(later))


def _lines(found: Iterable[Unsimulated]) -> str:
    return "".join(f"\n  {one.name}: {one.consequence}" for one in found)


# ---------------------------------------------------------------------- methods


def unsimulated_methods(strategy: IStrategy) -> Iterator[Unsimulated]:
    """The strategy's own methods that have an effect on trades."""
    for name in sorted(name for name in dir(IStrategy) if not name.startswith("_")):
        freqtrades = getattr(IStrategy, name)
        if not callable(freqtrades) or name in SIMULATED_METHODS | IRRELEVANT_METHODS:
            continue
        own = _users_method(strategy, name)
        if own is not None and _is_called(strategy, name) and not _does_nothing(name, own):
            yield Unsimulated(name, NAMED_METHODS.get(name, _UNKNOWN))
    for name in _ASKED_BEFORE:
        own = _users_method(strategy, name)
        code = getattr(own, "__code__", None)
        read = [] if code is None else sorted(_OF_THE_MOMENT & _names_reached(strategy, code))
        if read:
            yield Unsimulated(
                name,
                f"it looks at {' and '.join(read)}: training sees them as they are when it begins, at all candles",
            )
    # It is called rather than changed.
    if any(_LOCK in names_in(code) for code in _users_code(strategy)):
        yield Unsimulated(_LOCK, "pairs that it locks are not entered for a while, in training they are")


def _users_method(strategy: IStrategy, name: str) -> Callable[..., Any] | None:
    """The user's own method of a name; None where it is freqtrade's, or one that carries out the policy alone."""
    method = vars(strategy).get(name, getattr(type(strategy), name))
    while hasattr(method, _ORIGINAL):
        method = getattr(method, _ORIGINAL)
    if method is None:
        return None
    freqtrades = getattr(IStrategy, name)
    if name == "custom_stoploss":
        # freqtrade's own lets the stop trail, where it is called at all.
        return method  # type: ignore[no-any-return]
    return None if method is freqtrades else method


def _is_called(strategy: IStrategy, name: str) -> bool:
    if name in _SWITCHES:
        return bool(getattr(strategy, _SWITCHES[name], False))
    if name in _LIMIT_ORDERS:
        return strategy.order_types.get(_LIMIT_ORDERS[name]) == "limit"
    return True


def _does_nothing(name: str, method: Callable[..., Any]) -> bool:
    """Whether all that a method gives is a constant without effect, or what it was given."""
    code = getattr(method, "__code__", None)
    if code is None:
        return False
    (step, value), *others = _instructions(code)
    if others:
        return step.startswith("LOAD_FAST") and value == _UNCHANGED.get(name) and others == [("RETURN_VALUE", None)]
    without_effect = _WITHOUT_EFFECT.get(name, ())
    return step == _RETURN_CONST and (without_effect == (_ANYTHING,) or any(value is one for one in without_effect))


def _instructions(code: CodeType) -> list[tuple[str, Any]]:
    """What a function does, without its names, its docstring and how Python begins it."""
    steps: list[tuple[str, Any]] = []
    for one in dis.get_instructions(code):
        if one.opname == "RETURN_VALUE" and steps and steps[-1][0] == "LOAD_CONST":
            # Some Pythons do both in one.
            steps[-1] = _RETURN_CONST, steps[-1][1]
        elif one.opname not in ("RESUME", "NOP"):
            steps.append((one.opname, one.argval))
    return steps


def _users_code(strategy: IStrategy) -> Iterator[CodeType]:
    """The code of every function of the user's classes."""
    for made in type(strategy).__mro__:
        if made is IStrategy:
            return
        if made.__module__.partition(".")[0] not in ("freqtrade", "mtfscalper"):
            functions = (value for value in vars(made).values() if isinstance(value, FunctionType))
            yield from (function.__code__ for function in functions)


def _names_reached(strategy: IStrategy, code: CodeType) -> set[str]:
    """The names in a function, and in those of the user's own methods that it calls."""
    methods: dict[str, list[CodeType]] = {}
    for own in _users_code(strategy):
        methods.setdefault(own.co_name, []).append(own)
    names: set[str] = set()
    ahead = [code]
    while ahead:
        new = names_in(ahead.pop()) - names
        names |= new
        ahead += [own for called in new for own in methods.get(called, ())]
    return names


# ---------------------------------------------------------------------- switches


def _unsimulated_switches(strategy: IStrategy, config: Mapping[str, Any], settings: Settings) -> Iterator[Unsimulated]:
    """What the strategy's attributes, the config and the command's options switch on."""
    yield from _of_every_trade(strategy, config, settings)
    yield from _of_entries(strategy, config)
    yield from _of_bots(strategy, config)


def _of_every_trade(strategy: IStrategy, config: Mapping[str, Any], settings: Settings) -> Iterator[Unsimulated]:
    # Of an exit in custom_exit freqtrade does not ask for a profit.
    if strategy.exit_profit_only and settings.rl.decision_mode == "replay":
        yield Unsimulated(
            "exit_profit_only",
            f"exits up to a profit of exit_profit_offset ({strategy.exit_profit_offset}) are passed over, in training "
            "they are made",
        )
    if strategy.ignore_roi_if_entry_signal:
        yield Unsimulated(
            "ignore_roi_if_entry_signal", "minimal_roi waits while the entry signal lasts, in training it does not"
        )
    if config.get("timeframe_detail"):
        yield Unsimulated(
            "timeframe_detail",
            f"stops and ROI are looked for in candles of {config['timeframe_detail']}, in training in those of "
            f"{strategy.timeframe}",
        )
    if config.get("margin_mode") == MarginMode.CROSS:
        yield Unsimulated("margin_mode", "liquidation depends on the whole wallet, in training there is none")
    if "available_capital" in config:
        yield Unsimulated(
            "available_capital", "stakes are shares of it, in training of dry_run_wallet x tradable_balance_ratio"
        )
    if config.get("amend_last_stake_amount"):
        yield Unsimulated("amend_last_stake_amount", "the last slot's stake may be smaller, in training all are alike")


def _of_entries(strategy: IStrategy, config: Mapping[str, Any]) -> Iterator[Unsimulated]:
    n_pairs, slots = len(pairs_of(config, strategy)), strategy.max_open_trades
    if slots < n_pairs:
        yield Unsimulated(
            "max_open_trades",
            f"{slots:g} slots for {n_pairs} pairs: entries are refused while all are taken, in training none is",
        )
    if config.get("position_stacking"):
        yield Unsimulated("position_stacking", "a pair may hold several trades at once, in training one")
    if config.get("enable_dynamic_pairlist"):
        yield Unsimulated("enable_dynamic_pairlist", "pairs off the list are not entered, in training they are")
    if strategy.protections:
        methods = ", ".join(str(one.get("method")) for one in strategy.protections)
        yield Unsimulated(
            "protections",
            f"pairs are locked by {methods} after losses, in training they are entered",
            # A backtest has them with --enable-protections.
            bots_only=not config.get("enable_protections"),
        )
    if "amount_reserve_percent" in config:
        yield Unsimulated(
            "amount_reserve_percent",
            "stakes below the exchange's smallest, which it raises, are not entered, in training every one is",
        )


def _of_bots(strategy: IStrategy, config: Mapping[str, Any]) -> Iterator[Unsimulated]:
    def bots(name: str, consequence: str) -> Unsimulated:
        return Unsimulated(name, consequence, bots_only=True)

    types = strategy.order_types
    kinds = " and ".join(f"{types[kind]} for an {kind}" for kind in ("entry", "exit"))
    yield bots("order_types", f"{kinds}: limits may stay unfilled, markets slip, in training each fills at the open")
    if types.get("stoploss_on_exchange"):
        yield bots("stoploss_on_exchange", "the exchange fills the stop at a price it finds, in training at the stop")
    others = {kind: name for kind, name in strategy.order_time_in_force.items() if name != "GTC"}
    if others:
        yield bots("order_time_in_force", "orders that do not fill at once are given up, in training each fills")
    if config.get("unfilledtimeout"):
        yield bots("unfilledtimeout", "orders that stay unfilled are given up, in training each fills")
    if _exit_orders_wait(strategy, config):
        yield Unsimulated(
            "unfilledtimeout.exit",
            "trailing exits beyond their entry candle wait for the next, in training for one candle alone",
        )
    if config.get("entry_pricing") or config.get("exit_pricing"):
        yield bots(
            "entry_pricing, exit_pricing", "orders are priced by book or ticker after the open, in training at it"
        )
    if config.get("entry_pricing", {}).get("check_depth_of_market", {}).get("enabled"):
        yield bots("check_depth_of_market", "entries are refused by the order book, in training none is")
    if strategy.ignore_buying_expired_candle_after:
        yield bots(
            "ignore_buying_expired_candle_after",
            f"entries {strategy.ignore_buying_expired_candle_after} s after the open and later are not made, in "
            "training none is late",
        )
    if config.get("fee") is not None:
        yield bots("fee", "an exchange with real money charges its own fee, in training it is the config's")
    if any(one.get("method") != "StaticPairList" for one in config.get("pairlists", [])):
        yield bots("pairlists", "pairs join and leave, and a training knows the pair it is of alone")
    if config.get("external_message_consumer", {}).get("enabled"):
        yield bots("external_message_consumer", "signals of another bot are traded, in training there is none")
    hours = Expiry.from_freqai(config.get("freqai", {})).hours
    if hours > 0:
        yield bots(
            "freqai.expiration_hours", f"a policy older than {hours:g} hours enters nothing, in training none ages"
        )


def _exit_orders_wait(strategy: IStrategy, config: Mapping[str, Any]) -> bool:
    """Whether an exit order that its candle does not reach waits for later candles in a backtest.

    Of a trade with leverage the worst case of a trailing stop that waits for its offset can lie beyond the entry candle
    (``Backtesting._get_close_rate_for_stoploss``): there the offset is no share of the stake.
    """
    if not (
        config.get("trading_mode") == TradingMode.FUTURES
        and strategy.trailing_stop
        and strategy.trailing_only_offset_is_reached
        and strategy.trailing_stop_positive
    ):
        return False
    timeouts = config.get("unfilledtimeout") or {}
    if timeouts.get("exit") is None:
        return True
    waits = timedelta(**{timeouts.get("unit", "minutes"): timeouts["exit"]})
    return waits > timedelta(seconds=timeframe_to_seconds(strategy.timeframe))
