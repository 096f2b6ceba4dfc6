"""A policy's trades beside the same entries with classic exits, in figures. Read and written without numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# With fewer, nothing is taken for shown, whatever their mean.
ENOUGH_TRADES_TO_JUDGE = 30


@dataclass(frozen=True)
class PairedResult:
    """What a policy earned on trades that chose nothing, beside what their entries earned with classic exits.

    :ivar trades: how many pairs there are
    :ivar days: groups of pairs that were taken for one observation each, see :func:`paired`
    :ivar policy_mean: profit ratio of a trade as the policy ended it, on average
    :ivar classic_mean: that of the same entry with classic exits
    :ivar lower: the lower end of the mean difference, policy less classic; None where there are too few days for one
    """

    trades: int
    days: int
    policy_mean: float
    classic_mean: float
    lower: float | None

    @property
    def difference(self) -> float:
        """What the policy earned more on a trade, on average."""
        return self.policy_mean - self.classic_mean

    @property
    def beats_classic(self) -> bool:
        """Whether the policy beats classic exits: enough trades, and even the lower end of the difference above 0."""
        return self.trades >= ENOUGH_TRADES_TO_JUDGE and self.lower is not None and self.lower > 0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PairedResult:
        """The result whose fields these are.

        :raises TypeError: if one is missing or unknown
        """
        return cls(**values)

    def in_words(self) -> str:
        """The result in one sentence, without a full stop."""
        if not self.trades:
            return f"the policy made {self.why_not_beaten}: classic exits are not beaten"
        figures = (
            f"{_percent(self.policy_mean)} a trade beside {_percent(self.classic_mean)} for the same entries with "
            f"classic exits, on {self.trades} trades of {self.days} days that chose nothing"
        )
        if self.trades < ENOUGH_TRADES_TO_JUDGE:
            why = f"fewer than {ENOUGH_TRADES_TO_JUDGE} trades count as not beaten"
        elif self.lower is None:
            why = "one day shows no spread: not beaten"
        else:
            beaten = "beaten" if self.beats_classic else "not beaten"
            why = f"lower end of the difference {_percent(self.lower)}: {beaten}"
        return f"{figures}; {why}"

    @property
    def why_not_beaten(self) -> str:
        """Why classic exits are not beaten, without figures; "" where they are."""
        if self.beats_classic:
            return ""
        if not self.trades:
            return "no trade on the candles that judge"
        if self.trades < ENOUGH_TRADES_TO_JUDGE:
            return f"fewer than {ENOUGH_TRADES_TO_JUDGE} trades that judge"
        return "trades of one day alone" if self.lower is None else "lower end of the difference not above 0"


def must_fall_back(judged: PairedResult | str) -> bool:
    """Whether the rules end a policy's trades: nothing shows that it beats classic exits.

    :param judged: how it was judged; why that is not known, in words
    """
    return isinstance(judged, str) or not judged.beats_classic


def _percent(ratio: float) -> str:
    return f"{ratio:+.3%}"
