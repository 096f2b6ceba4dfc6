"""The verdict: one sentence with numbers, and nothing said that they do not say."""

from __future__ import annotations

from typing import NamedTuple

from mtfscalper.reporting.intervals import ENOUGH_DAYS, ENOUGH_DIFFERENT_DAYS, ENOUGH_TRADES, LEVEL, Interval
from mtfscalper.reporting.wording import percent

FINDINGS = {
    "for": "evidence of an edge",
    "against": "evidence against it, the policy costs money",
    "none": "no evidence of an edge",
    "too_few": "too few to say anything",
    "no_trades": "nothing to judge",
}


class Verdict(NamedTuple):
    """Whether the exits of a run earned anything over its entries.

    :ivar finding: a key of :data:`FINDINGS`
    :ivar sentence: what was found, with its numbers
    :ivar beside: what the trades earned by themselves
    :ivar trades: how many
    :ivar days: on which the run or its rival held any
    :ivar a_trade: the run's profit of a trade less that of the same entry with classic exits, a share of the stake
    """

    finding: str
    sentence: str
    beside: str
    trades: int
    days: int
    a_trade: Interval


def judge(
    a_trade: Interval, trades: int, days: int, run: float | None, classic: float | None, *, policy: bool = True
) -> Verdict:
    """Say what a paired difference shows.

    :param a_trade: with its interval
    :param days: on which the run or its rival held any
    :param run: mean profit of the run's trades, a share of the stake; None without trades
    :param classic: the same of their entries with classic exits
    :param policy: whether a policy of this project decided
    """
    who = "the policy's exits" if policy else "the run's exits"
    if not trades or run is None or classic is None:
        return Verdict("no_trades", f"The run made no trade: {FINDINGS['no_trades']}.", "", 0, days, a_trade)
    over = f"Over {_count(trades, 'trade')} on {_count(days, 'day')} {who} earned {percent(a_trade.mean, 3)} a trade"
    rival = "beside the same entries with classic exits"
    held = (
        f"The trades earned {percent(run, 3)} each after costs, their entries with classic exits {percent(classic, 3)}."
    )
    if a_trade.low is None or a_trade.high is None:
        needed = f"{ENOUGH_TRADES} trades, {ENOUGH_DAYS} days and a difference on {ENOUGH_DIFFERENT_DAYS}"
        return Verdict(
            "too_few",
            f"{over} {rival}: {FINDINGS['too_few']} (an interval needs {needed}).",
            held,
            trades,
            days,
            a_trade,
        )
    finding = {1: "for", 0: "none", -1: "against"}[a_trade.sign]
    interval = f"({LEVEL * 100:.0f} % interval {percent(a_trade.low, 3)} to {percent(a_trade.high, 3)})"
    said = FINDINGS[finding] if policy else FINDINGS[finding].replace("the policy costs", "they cost")
    return Verdict(finding, f"{over} {interval} {rival}: {said}.", held, trades, days, a_trade)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
