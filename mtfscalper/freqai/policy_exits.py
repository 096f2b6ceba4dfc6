"""The mixin by which a strategy's trades are those its policy is trained for: who is asked, and what always holds.

The rules stand in wrappers around the strategy's callbacks, whoever defines them and whether or not they call
``super()``. A strategy can neither forget the rules nor lose its own callbacks by them.
"""

from __future__ import annotations

import logging
from abc import ABCMeta
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import wraps
from inspect import getattr_static
from typing import Any, cast

from freqtrade.enums import TRADE_MODES, ExitCheckTuple
from freqtrade.exceptions import OperationalException
from freqtrade.persistence import Trade
from freqtrade.strategy import IStrategy

from mtfscalper.freqai.bot_record import take_bots_timerange
from mtfscalper.freqai.candle_clock import candle_open, candles_between
from mtfscalper.freqai.exit_policy import ExitDecision
from mtfscalper.freqai.result_cache import never_reuse_results
from mtfscalper.freqai.strategy_parameters import set_parameters
from mtfscalper.freqai.strategy_rules import settings_of_strategy
from mtfscalper.freqai.trade_decisions import DecisionLostError, TradeDecisions, trade_decisions_of
from mtfscalper.freqai.unknown_position import has_unknown_position
from mtfscalper.freqai.unsimulated import carries_out_policy
from mtfscalper.settings import RLSettings

logger = logging.getLogger(__name__)

POLICY_REASON = "rl_exit"
DURATION_REASON = "max_duration"

# Of a wrapper: itself, so that nothing that copied its attributes is taken for one.
_WRAPPER = "_of_policy_exits"
# Of a strategy: whom it asks, and its settings.
_DECISIONS, _SETTINGS = "_policy_exits_decisions", "_policy_exits_settings"

Callback = Callable[..., Any]


class _MixinFirst(ABCMeta):
    """Lets ``class MyStrategy(IStrategy, PolicyExits)`` mean what ``(PolicyExits, IStrategy)`` does."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **more: Any) -> _MixinFirst:
        # A base before its own subclass is an order that Python refuses, and that says nothing else.
        ordered = tuple(
            base
            for at, base in enumerate(bases)
            if not any(later is not base and issubclass(later, base) for later in bases[at + 1 :])
        )
        return super().__new__(mcs, name, ordered, namespace, **more)


def _call(own: Any, strategy: IStrategy, *arguments: Any, **keywords: Any) -> Any:
    """Call what a class holds under a callback's name: a function, a static method or another descriptor."""
    bound = own.__get__(strategy, type(strategy)) if hasattr(own, "__get__") else own
    return bound(*arguments, **keywords)


def _argument(name: str, position: int, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """One of a callback's arguments: freqtrade names them all, a call of ``super()`` need not."""
    return keywords[name] if name in keywords else arguments[position]


def _policy_first(own: Any) -> Callback:
    """A ``custom_exit`` that asks the policy before the strategy's own, and ends a trade of the longest duration."""

    @wraps(own)
    def custom_exit(self: PolicyExits, *arguments: Any, **keywords: Any) -> Any:
        def ask_own() -> Any:
            return _call(own, self, *arguments, **keywords)

        if type(self).custom_exit is not custom_exit:
            # Called by a subclass's own, around which the wrapper is.
            return ask_own()
        trade = _argument("trade", 1, arguments, keywords)
        current_time = _argument("current_time", 2, arguments, keywords)
        current_rate = _argument("current_rate", 3, arguments, keywords)
        return _exit_reason(self, trade, current_time, current_rate, ask_own)

    return custom_exit


def _rules_first(own: Any) -> Callback:
    """A ``confirm_trade_entry`` that needs the rules' consent and the strategy's own."""

    @wraps(own)
    def confirm_trade_entry(self: PolicyExits, *arguments: Any, **keywords: Any) -> Any:
        if type(self).confirm_trade_entry is confirm_trade_entry:
            pair = _argument("pair", 0, arguments, keywords)
            try:
                permitted = _may_enter(self, pair, _argument("current_time", 5, arguments, keywords))
            except Exception:
                # freqtrade would take an error for consent.
                logger.exception("%s: whether a trade may be entered cannot be found out, so none is.", pair)
                permitted = False
            if not permitted:
                return False
        return _call(own, self, *arguments, **keywords)

    return confirm_trade_entry


def _record_first(own: Any) -> Callback:
    """A ``bot_loop_start`` before which the record of decisions is written down where it is due."""

    @wraps(own)
    def bot_loop_start(self: PolicyExits, *arguments: Any, **keywords: Any) -> Any:
        decisions = vars(self).get(_DECISIONS)
        if decisions is not None and type(self).bot_loop_start is bot_loop_start:
            decisions.at_loop(_argument("current_time", 0, arguments, keywords))
        return _call(own, self, *arguments, **keywords)

    return bot_loop_start


_WRAPPERS: dict[str, Callable[[Any], Callback]] = {
    "custom_exit": _policy_first,
    "confirm_trade_entry": _rules_first,
    "bot_loop_start": _record_first,
}


def _is_wrapper(callback: Any) -> bool:
    function = getattr(callback, "__func__", callback)
    return getattr(function, _WRAPPER, None) is function


def _wrap_callbacks(strategy: type) -> None:
    """Wrap whatever callbacks a class has that are not wrapped: its own, or those of another base before the mixin."""
    for name, wrap in _WRAPPERS.items():
        own = getattr_static(strategy, name)
        if not _is_wrapper(own):
            wrapper = wrap(own)
            setattr(wrapper, _WRAPPER, wrapper)
            # What the strategy itself defines is simulated or named; the mixin's own only carry out the policy.
            carries_out_policy(wrapper, None if strategy.__module__ == __name__ else own)
            setattr(strategy, name, wrapper)


class PolicyExits(IStrategy, metaclass=_MixinFirst):
    """``class MyStrategy(PolicyExits, IStrategy)``: the policy decides about open trades, and training's rules hold.

    * ``custom_exit``: with ``decision_mode`` "exact" the policy is asked first, then the strategy's own. A trade of
      ``rl_config.max_trade_duration_candles`` is ended at that open, whatever was said, and whatever failed.
    * ``confirm_trade_entry``: no entry in the candle of an exit, about which the policy was not asked; none by a row
      that is not the last, and none live where the exchange holds what no trade knows of. Then the strategy's own.
    * ``bot_loop_start``: the record of decisions is written down.

    Without FreqAI nobody is asked; duration and entries keep the same rules, so that what is compared with the policy
    trades by them too. With ``decision_mode`` "replay" the columns hold the policy's exits, made under the same rules.

    It is a strategy itself and no class beside: ``freqtrade hyperopt`` sends the modules of a strategy's bases to its
    workers by value, and of a base that is none it would send Python's own.

    :ivar policy_decision: while a strategy's own ``custom_exit`` runs, what the policy said about the trade at this
        candle; None where it was not asked, or could not decide
    """

    policy_decision: ExitDecision | None = None

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        take_bots_timerange(config)
        never_reuse_results(config)
        # Here already: freqtrade makes the FreqAI model, which checks too, only after loading all candles.
        self.prepare_to_ask()

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        _wrap_callbacks(cls)

    # ------------------------------------------------------------------ for strategies

    def policy_leaves(self, decision: ExitDecision) -> bool:
        """Whether a decision of the policy is to leave; for subclasses to vary, from the decision alone."""
        return decision.leave

    def candles_held(self, trade: Trade, current_time: datetime) -> int:
        """Candles that opened since that of a trade's entry; from 1 on the policy decides."""
        return candles_between(self.timeframe, trade.open_date_utc, current_time)

    @property
    def trade_decisions(self) -> TradeDecisions | None:
        """Whom to ask about open trades; None where nobody is."""
        self.prepare_to_ask()
        return vars(self).get(_DECISIONS) if _asks_policy(self) else None

    @trade_decisions.setter
    def trade_decisions(self, decisions: TradeDecisions | None) -> None:
        vars(self)[_DECISIONS] = decisions

    @property
    def rl_settings(self) -> RLSettings:
        """``freqai.rl_config``; the defaults where FreqAI is off and its section is another model's."""
        return _settings(self)

    @rl_settings.setter
    def rl_settings(self, settings: RLSettings) -> None:
        vars(self)[_SETTINGS] = settings

    # ------------------------------------------------------------------ freqtrade's callbacks

    def custom_exit(self, *arguments: Any, **keywords: Any) -> Any:
        """Whether to leave a trade now."""
        return super().custom_exit(*arguments, **keywords)

    def confirm_trade_entry(self, *arguments: Any, **keywords: Any) -> bool:
        """Whether to enter a trade now."""
        return super().confirm_trade_entry(*arguments, **keywords)

    def bot_loop_start(self, *arguments: Any, **keywords: Any) -> None:
        """A bot's loop begins, or a candle of a backtest."""
        super().bot_loop_start(*arguments, **keywords)

    def ft_load_hyper_params(self, hyperopt: bool = False) -> None:
        """freqtrade's reading of the parameters; those of the config count more than those of hyperopt's file.

        :raises OperationalException: if the config's are wrong
        """
        super().ft_load_hyper_params(hyperopt)
        set_parameters(self)

    @carries_out_policy
    def should_exit(
        self, trade: Trade, rate: float, current_time: datetime, *, enter: bool, exit_: bool, **keywords: Any
    ) -> list[ExitCheckTuple]:
        """freqtrade's checks of an open trade, of which ``custom_exit`` is one.

        :raises OperationalException: if a backtest's decision about the trade is lost
        """
        if exit_ and self.exit_profit_only and trade.calc_profit_ratio(rate) <= self.exit_profit_offset:
            # A signal that freqtrade will refuse for its profit. It would not call custom_exit beside it.
            exit_ = False
        try:
            return super().should_exit(trade, rate, current_time, enter=enter, exit_=exit_, **keywords)
        except DecisionLostError as error:
            # Behind the wrapper in which freqtrade calls a strategy's callbacks: here its own errors end a run.
            raise OperationalException(str(error)) from error

    def ft_bot_cleanup(self) -> None:
        """freqtrade's end of a bot."""
        for decisions in trade_decisions_of(self):
            decisions.close()
        super().ft_bot_cleanup()

    # ------------------------------------------------------------------ whom to ask

    def prepare_to_ask(self) -> None:
        """Have somebody to ask about open trades, if the policy is asked at all; not before it is needed.

        A strategy's own ``__init__`` may do without this one's. What the strategy holds already stays.

        :raises OperationalException: if the config is wrong, or a callback has been replaced after its class was made
        """
        if not _asks_policy(self):
            return
        replaced = [name for name in _WRAPPERS if not _is_wrapper(getattr(self, name))]
        if replaced:
            raise OperationalException(
                f"{type(self).__name__}.{replaced[0]} has been assigned to the strategy after its class was made, so "
                "that neither the policy nor the rules of its training would be asked; accepted: a method that the "
                "class or one of its bases defines; remedy: define it there"
            )
        known = vars(self).get(_DECISIONS)
        by_hand = [held for held in trade_decisions_of(self) if held is not known]
        asked = by_hand[0] if by_hand else known or TradeDecisions(self.config, self)
        asked.leave_by(self.policy_leaves)
        vars(self)[_DECISIONS] = asked


_wrap_callbacks(PolicyExits)


def _uses_policy(strategy: IStrategy) -> bool:
    return bool(strategy.config.get("freqai", {}).get("enabled", False))


def _asks_policy(strategy: IStrategy) -> bool:
    settings = _settings(strategy)
    return _uses_policy(strategy) and settings.decision_mode == "exact"


def _settings(strategy: IStrategy) -> RLSettings:
    known = vars(strategy).get(_SETTINGS)
    if known is None:
        try:
            known = settings_of_strategy(strategy.config).rl
        except OperationalException:
            if _uses_policy(strategy):
                raise
            # Without FreqAI its section may be another model's.
            known = settings_of_strategy({}).rl
        vars(strategy)[_SETTINGS] = known
    return cast(RLSettings, known)


def _exit_reason(
    strategy: PolicyExits, trade: Trade, current_time: datetime, current_rate: float, ask_own: Callable[[], Any]
) -> Any:
    """The policy, the strategy's own callback, the longest duration: whichever of them leaves first.

    An error of the first two is raised only once nothing leaves: freqtrade logs it and takes it for holding.
    """
    errors: list[Exception] = []
    reason: Any = None
    decision = None
    try:
        decision, leaves = _ask(strategy, trade, current_time, current_rate)
        reason = POLICY_REASON if leaves else None
    except Exception as error:
        errors.append(error)
    if not reason:
        strategy.policy_decision = decision
        try:
            reason = ask_own()
        except Exception as error:
            errors.append(error)
        finally:
            strategy.policy_decision = None
    if not reason:
        held = candles_between(strategy.timeframe, trade.open_date_utc, current_time)
        reason = DURATION_REASON if held >= _settings(strategy).max_trade_duration_candles else None
    for unraised in errors if reason else errors[1:]:
        logger.error("%s: an error in a decision about an open trade: %r", trade.pair, unraised, exc_info=unraised)
    if errors and not reason:
        raise errors[0]
    return reason


def _ask(
    strategy: PolicyExits, trade: Trade, current_time: datetime, current_rate: float
) -> tuple[ExitDecision | None, bool]:
    """The policy's decision, and whether it leaves."""
    if not _asks_policy(strategy):
        return None, False
    if vars(strategy).get(_DECISIONS) is None:
        strategy.prepare_to_ask()
    decisions: TradeDecisions = vars(strategy)[_DECISIONS]
    decision = decisions.decide(trade, current_time, current_rate)
    if decision is None or not decisions.leaves(trade, current_time, decision):
        return decision, False
    decisions.note_exit(trade, decision)
    return decision, True


def _may_enter(strategy: IStrategy, pair: str, current_time: datetime) -> bool:
    candle = candle_open(strategy.timeframe, current_time)
    before = candle - timedelta(microseconds=1)
    if strategy.config.get("runmode") in TRADE_MODES:
        # Until a bot has the candle that has just closed, freqtrade goes by the row before it: by a signal that was
        # refused in the candle of an exit, maybe, and which a backtest has forgotten by now.
        analysed, _ = strategy.dp.get_analyzed_dataframe(pair, strategy.timeframe)
        if analysed.empty or analysed["date"].iloc[-1] < candle_open(strategy.timeframe, before):
            return False
    if Trade.get_trades_proxy(pair=pair, is_open=False, close_date=before):
        return False
    return not has_unknown_position(strategy, pair)
