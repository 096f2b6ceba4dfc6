"""A reward of the user's that is asked about one account, candle by candle, in the place of the weighted terms."""

from __future__ import annotations

from typing import Protocol

from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.account import Fill
from mtfscalper.trading.episode import EpisodeState

# What sums of it are called, where others are called by the names of their terms.
OWN_REWARD = "calculate_reward"


class OwnRewardError(ValueError):
    """A reward of the user's cannot be computed. Names where, what happened, what is accepted and the remedy."""


class EpisodeReward(Protocol):
    """The reward of one account, which remembers what has happened to it."""

    def begin(self, state: EpisodeState) -> None:
        """An episode begins.

        :param state: flat, at the first candle that is decided
        """

    def of_candle(self, before: EpisodeState, action: int, fill: Fill, after: EpisodeState) -> float:
        """What a candle is rewarded with, once it is over.

        :param before: at the candle's open
        :param action: what was asked for, a member of :class:`mtfscalper.trading.actions.Action`
        :param fill: what was closed in the candle, or in the episode's last right after it
        :param after: at the next candle that is played
        :raises OwnRewardError: if it cannot be computed, or is no finite number
        """

    def metrics(self) -> dict[str, float]:
        """Figures for TensorBoard by tag."""


class OwnReward(Protocol):
    """What accounts are given a reward from. It can be pickled, and sent to another process."""

    def on(self, tape: MarketTape) -> EpisodeReward:
        """The reward of a new account.

        :param tape: the candles it plays on
        """
