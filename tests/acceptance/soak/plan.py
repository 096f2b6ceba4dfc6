"""What happens in a soak and when: drawn from a seed before it begins."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import NamedTuple

from mtfscalper.offline.faults import Rule, random_rules

# Of all requests. A soak's bot trades dry and places no order on the exchange, so that no order's fate is unknown: what
# a live bot does then is shown by tests/acceptance/test_simulated_live.py.
RATE = 0.02
ABSURD = ("in_1970", "high_below_low", "spike", "duplicate")
OUTAGES = ("http_503", "dropped", "half_json", "empty", "http_418")
# A bot is killed, or stopped, about so often; and about so often the exchange is out altogether.
HOURS_BETWEEN_ENDS, HOURS_BETWEEN_OUTAGES, HOURS_BETWEEN_ABSURD = 7.0, 30.0, 12.0


class End(NamedTuple):
    """A bot's end.

    :ivar at: not before this moment, wherever the bot is then
    :ivar kind: ``kill`` for a kill -9, ``stop`` for Ctrl-C
    :ivar down: how long none runs
    """

    at: datetime
    kind: str
    down: timedelta


class Plan(NamedTuple):
    """A soak.

    :ivar start: first moment
    :ivar stop: last one
    :ivar quiet: from when on nothing ends the bot, so that its growth is seen
    :ivar ends: of bots, in their order
    :ivar rules: of the exchange's faults
    """

    start: datetime
    stop: datetime
    quiet: datetime
    ends: list[End]
    rules: tuple[Rule, ...]


def drawn(start: datetime, hours: float, seed: int, *, is_unbroken: bool = False) -> Plan:
    """Draw a plan.

    :param hours: from start to stop; the last quarter is quiet
    :param is_unbroken: quiet from the start: the same faults, and nothing ends the bot
    """
    draw = random.Random(seed)
    stop = start + timedelta(hours=hours)
    quiet = start if is_unbroken else start + timedelta(hours=0.75 * hours)
    # The first hours are for the first policies.
    ends: list[End] = []
    moment = start + timedelta(hours=1.5)
    while (moment := moment + timedelta(hours=draw.uniform(0.2, 2) * HOURS_BETWEEN_ENDS)) < quiet:
        kind = "stop" if draw.random() < 0.2 else "kill"
        # Mostly a restart by the system, now and then an hour or three without.
        down = timedelta(minutes=draw.uniform(0, 4) if draw.random() < 0.8 else draw.uniform(30, 180))
        ends.append(End(moment, kind, down))
        moment += down
    rules: list[Rule] = []
    for mean, kinds, minutes in (
        (HOURS_BETWEEN_OUTAGES, OUTAGES, (3, 40)),
        (HOURS_BETWEEN_ABSURD, ABSURD, (5, 5)),
    ):
        moment = start + timedelta(hours=2)
        while (moment := moment + timedelta(hours=draw.uniform(0.1, 2) * mean)) < stop:
            until = moment + timedelta(minutes=draw.uniform(*minutes))
            since_ms, until_ms = (int(one.timestamp() * 1000) for one in (moment, until))
            rules.append(Rule(draw.choice(kinds), since_ms=since_ms, until_ms=until_ms))
    return Plan(start, stop, quiet, ends, (*rules, *random_rules(RATE)))
