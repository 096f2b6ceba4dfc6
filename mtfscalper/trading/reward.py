"""Reward: a table of terms, each a function with a name and a weight.

The default is the net log-return of equity after costs over the share of it that is staked, alone: over an episode it
adds up to the logarithm of the final equity over that share. Every other term shapes behaviour and has weight 0 until
``model_reward_parameters`` sets it. To add a term, write a function, put it into :data:`TERMS` and give it a
``*_weight`` in :class:`RewardSettings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from mtfscalper.trading.account import Account, ExitReason, Fill
from mtfscalper.trading.actions import ActionTable
from mtfscalper.trading.arrays import Array, Namespace
from mtfscalper.user_code import IMPORT_PATH, UserCode, load_user_code

# Rewards are float32: beyond, a product of them overflows, and training ends in NaN.
_Weight = Annotated[float, Field(ge=-1e5, le=1e5, allow_inf_nan=False)]
_Factor = Annotated[float, Field(gt=0.0, le=1e5, allow_inf_nan=False)]


class RewardSettings(BaseModel):
    """``freqai.rl_config.model_reward_parameters``: three stock keys and a weight for every term."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rr: _Factor = Field(1.0, description="risk to reward: profits above `rr` × `profit_aim` count as wins")
    profit_aim: Annotated[float, Field(ge=1e-6, le=1e5, allow_inf_nan=False)] = Field(
        0.025, description="profit ratio aimed at, the unit of profit terms"
    )
    win_reward_factor: _Factor = Field(2.0, description="factor of profit_quality on wins")
    equity_weight: _Weight = Field(
        1.0,
        description="weight of the log of equity after over before, after costs, over the share of the equity that a "
        "trade stakes: the number of slots does not scale it. Alone, an episode adds up to the log of final equity "
        "over that share",
    )
    profit_quality_weight: _Weight = Field(
        0.0,
        description="weight of profit / `profit_aim` at an exit. Times `win_reward_factor` above `rr` × `profit_aim`",
    )
    drawdown_weight: _Weight = Field(0.0, description="weight of minus the distance from the trade's best profit")
    timing_weight: _Weight = Field(
        0.0,
        description="weight of how near the favourable end of the last `timing_candles` candles' range a trade is "
        "entered and left",
    )
    duration_weight: _Weight = Field(
        0.0, description="weight of minus the share of the longest duration that the trade has lasted"
    )
    invalid_weight: _Weight = Field(0.0, description="weight of minus 1 for an impossible action")
    idle_weight: _Weight = Field(0.0, description="weight of minus 1 for declining a permitted entry")
    terms: dict[Annotated[str, Field(pattern=IMPORT_PATH)], _Weight] = Field(
        {},
        description="weights of terms of your own. Functions of a module in the user directory, or of an installed one",
    )
    timing_candles: Annotated[int, Field(ge=2)] = Field(48, description="candles of the range that timing looks at")


class Transition(NamedTuple):
    """One candle as the reward sees it; numbers, or arrays of shape (n,).

    :ivar before: account at the candle's open, before the action
    :ivar after: account after the candle
    :ivar fill: what was entered and closed in the candle
    :ivar profit_after: profit ratio of a still open trade at the next open, else 0
    :ivar equity_before: equity marked at the candle's open, 1 at the start of an episode
    :ivar equity_after: equity marked at the next open
    :ivar range_position: place of the candle's open in the recent range, 0 its low, 1 its high
    :ivar max_trade_duration_candles: longest duration of a trade
    :ivar staked_ratio: what is staked on a trade, as a share of the equity at the start
    :ivar asked: the position in ``actions`` of what was asked for
    :ivar actions: what becomes of an action
    """

    before: Account
    after: Account
    fill: Fill
    profit_after: Array
    equity_before: Array
    equity_after: Array
    range_position: Array
    max_trade_duration_candles: int
    staked_ratio: float
    asked: Array
    actions: ActionTable

    @property
    def in_trade(self) -> Array:
        """Whether a trade is open after the candle."""
        return self.after.side != 0

    @property
    def accepted(self) -> Array:
        """Whether the rules could carry out the action."""
        return self.actions.accepted[self.asked]

    @property
    def declined(self) -> Array:
        """Whether an entry was permitted and not taken."""
        return self.actions.declined[self.asked]


Term = Callable[[Namespace, RewardSettings, Transition], Array]


def equity(xp: Namespace, settings: RewardSettings, transition: Transition) -> Array:
    """log(equity after / equity before), costs included, over the share of the equity that is staked."""
    return xp.log(transition.equity_after / transition.equity_before) / transition.staked_ratio


def profit_quality(xp: Namespace, settings: RewardSettings, transition: Transition) -> Array:
    """At an exit: profit / profit_aim, times win_reward_factor above rr x profit_aim."""
    fill = transition.fill
    quality = fill.profit_ratio / settings.profit_aim
    win = fill.profit_ratio > settings.rr * settings.profit_aim
    return xp.where(fill.exited, xp.where(win, settings.win_reward_factor * quality, quality), 0.0)


def drawdown(xp: Namespace, settings: RewardSettings, transition: Transition) -> Array:
    """In a trade: minus the distance from its best profit, in profit_aim."""
    fallen = xp.maximum(transition.after.best_profit - transition.profit_after, 0.0) / settings.profit_aim
    return -xp.where(transition.in_trade, fallen, 0.0)


def timing(xp: Namespace, settings: RewardSettings, transition: Transition) -> Array:
    """At an entry and at an exit by signal: how near the favourable end of the range, -0.5 to 0.5."""
    fill = transition.fill
    # A trade entered and stopped within one candle leaves its side in the fill only.
    entered_side = xp.where(fill.exited, fill.side, transition.after.side)
    # Cheap is good for buying: entering long, leaving short.
    cheapness = 0.5 - transition.range_position
    at_entry = xp.where(fill.entered, entered_side * cheapness, 0.0)
    by_signal = fill.reason == ExitReason.EXIT_SIGNAL
    return xp.where(by_signal, -fill.side * cheapness, at_entry)


def duration(xp: Namespace, settings: RewardSettings, transition: Transition) -> Array:
    """In a trade: minus the share of the longest duration held."""
    share = transition.after.held_candles / transition.max_trade_duration_candles
    return -xp.where(transition.in_trade, share, 0.0)


def invalid(xp: Namespace, settings: RewardSettings, transition: Transition) -> Array:
    """Minus 1 for an action that cannot be done."""
    return -xp.where(transition.accepted, 0.0, 1.0)


def idle(xp: Namespace, settings: RewardSettings, transition: Transition) -> Array:
    """Minus 1 for declining a permitted entry."""
    return -xp.where(transition.declined, 1.0, 0.0)


# Each has its weight in RewardSettings, under its name with ``_weight`` behind it.
TERMS: dict[str, Term] = {
    function.__name__: function for function in (equity, profit_quality, drawdown, timing, duration, invalid, idle)
}


class WeightedTerm(NamedTuple):
    """A term that counts."""

    name: str
    weight: float
    function: Term


def load_own_terms(settings: RewardSettings, user_data: Path) -> tuple[UserCode, ...]:
    """The functions that ``terms`` names.

    :param user_data: freqtrade's ``user_data_dir``
    :raises mtfscalper.user_code.UserCodeError: if one cannot be loaded
    """
    key = "freqai.rl_config.model_reward_parameters.terms"
    return tuple(load_user_code(name, user_data, key) for name in settings.terms)


def weighted_terms(settings: RewardSettings, own: Iterable[UserCode] = ()) -> tuple[WeightedTerm, ...]:
    """The terms whose weight is not 0: those of :data:`TERMS`, then the user's.

    :param own: the functions that ``settings.terms`` names
    """
    weights = {name: getattr(settings, f"{name}_weight") for name in TERMS}
    terms = [WeightedTerm(name, weights[name], function) for name, function in TERMS.items()]
    terms += [WeightedTerm(code.name, settings.terms[code.name], code.value) for code in own]
    return tuple(term for term in terms if term.weight)


def reward_terms(
    xp: Namespace, settings: RewardSettings, terms: Iterable[WeightedTerm], transition: Transition
) -> dict[str, Array]:
    """Every term, weighted, by name; their sum is the reward."""
    return {term.name: term.weight * term.function(xp, settings, transition) for term in terms}
