"""``mtfscalper replay-exchange``: candles of the past, served to freqtrade commands that live by true time."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from mtfscalper.offline import DEFAULT_PORT, ReplayError
from mtfscalper.offline.candles import CandleStore
from mtfscalper.offline.exchange import NO_SHIFT, ReplayExchange, utc_now
from mtfscalper.offline.faults import Faults, read_rules
from mtfscalper.offline.freqtrade_command import write_overlay

# Of the candles, what a bot has before it if nobody says where to begin.
DAYS_TO_TRADE = 7


class ReplayRequest(NamedTuple):
    """What the user asked for.

    :ivar datadir: freqtrade data directory to serve
    :ivar port: on the loopback address; 0 takes a free one
    :ivar start: the day that is served as today; None leaves :data:`DAYS_TO_TRADE` days to trade
    :ivar as_dated: whether candles keep their dates
    :ivar faults: a rate or a script, see :func:`~mtfscalper.offline.faults.read_rules`; None is nothing
    :ivar seed: of the faults
    :ivar config: where the configuration goes that sends freqtrade here; None writes none
    """

    datadir: Path
    port: int = DEFAULT_PORT
    start: datetime | None = None
    as_dated: bool = False
    faults: str | None = None
    seed: int = 0
    config: Path | None = None


def serve(request: ReplayRequest) -> int:
    """Serve until Ctrl-C.

    :return: exit status
    :raises ReplayError: when the request cannot be served
    """
    if request.as_dated and request.start is not None:
        raise ReplayError("replay exchange: --from and --as-dated exclude each other; leave one out")
    shift = NO_SHIFT if request.as_dated else shift_of(request, utc_now())
    faults = Faults(read_rules(request.faults), request.seed) if request.faults else None
    with ReplayExchange(request.datadir, request.port, faults=faults, shift=shift) as exchange:
        print(f"Replay exchange at {exchange.url}, serving {request.datadir}. Stop it with Ctrl-C.")
        if shift:
            print(f"Candles of {utc_now() - shift:%Y-%m-%d} are served as today's: a bot lives by true time.")
            print("Much faster, by a simulated clock: mtfscalper dry-run")
        if request.config is not None:
            write_overlay(request.config, exchange.url, {})
            print(f"freqtrade uses it with: --config {request.config}")
        elif exchange.port == DEFAULT_PORT:
            print("freqtrade uses it with: --config configs/offline.json")
        else:
            print(
                f"configs/offline.json names port {DEFAULT_PORT}: write one for {exchange.port} by --write-config FILE."
            )
        sys.stdout.flush()
        try:
            exchange.wait()
        except KeyboardInterrupt:
            print("Stopped." if faults is None else f"Stopped. Faults served: {dict(faults.served)}")
            return 0
    print("The replay exchange stopped by itself; see the error above.", file=sys.stderr)
    return 1


def shift_of(request: ReplayRequest, now: datetime) -> timedelta:
    """By how many days candles have to be later, so that one day of theirs is today.

    :param now: the moment, in UTC
    :raises ReplayError: when there are no candles of that day
    """
    store = CandleStore(request.datadir)
    spans = [store.finest(pair) for pair in store.timeframes]
    first = max(int(candles.open_ms[0]) for candles in spans)
    last = min(int(candles.open_ms[-1]) + candles.length_ms for candles in spans)
    first_day, last_day = (datetime.fromtimestamp(moment / 1000, UTC) for moment in (first, last - 1))
    start = request.start or max(first_day, last_day - timedelta(days=DAYS_TO_TRADE))
    if not first_day.date() <= start.date() <= last_day.date():
        raise ReplayError(
            f"replay exchange: --from is {start:%Y-%m-%d}; accepted: a day among {first_day:%Y-%m-%d} and "
            f"{last_day:%Y-%m-%d}, of which {request.datadir} has candles of all pairs"
        )
    # A market that reaches into the present needs none, and whole days keep the time of day.
    if request.start is None and last_day.date() >= now.date():
        return NO_SHIFT
    return timedelta(days=(now.date() - start.date()).days)
