"""What goes wrong on an exchange, served on purpose: by rate, or by a script that says when and where.

A fault of a request is drawn from the seed, the request and how often it was made before; a fault of a candle from the
seed and the candle. So the same seed gives the same faults to the same requests, in whatever order threads make them.
"""

import hashlib
import json
import threading
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mtfscalper.offline import ReplayError

# What a client of ccxt waits for an answer, in seconds.
CLIENT_TIMEOUT_SECONDS = 10.0

# What happens to a request, and the seconds that it takes where that matters.
REQUEST_FAULTS: dict[str, str] = {
    "latency": "the answer comes late, by `seconds` (3); from 10 on the client has given up",
    "http_429": "refused for too many requests",
    "http_418": "refused, the address is banned for a while",
    "http_503": "refused, the exchange is unavailable",
    "dropped": "the connection is closed without an answer",
    "half_json": "half of the answer, with status 200",
    "empty": "an empty list or object, with status 200",
    "clock_skew": "the exchange answers as of a moment that is off by `seconds` (-30: its clock is late)",
    "order_unknown": "of an order alone: the answer is lost, so that nobody knows whether the order was carried out",
}
# What happens to a candle that has closed.
CANDLE_FAULTS: dict[str, str] = {
    "late": "it is not there for its first `seconds` (45)",
    "missing": "it never comes",
    "revised": "for its first `seconds` (45) it has another close",
    "in_1970": "its date is the first of 1970, for its first `seconds` (45)",
    "high_below_low": "high and low are exchanged, for its first `seconds` (45)",
    "spike": "its high is a million times its open, for its first `seconds` (45)",
    "duplicate": "it comes twice with different closes, for its first `seconds` (45)",
}
KINDS = (*REQUEST_FAULTS, *CANDLE_FAULTS)
# Of a rate for everything, without a script: what real exchanges do.
RANDOM_KINDS = (*(kind for kind in REQUEST_FAULTS if kind != "order_unknown"), "late", "missing", "revised")
# Requests that place an order.
_ORDERS = ("/fapi/v1/order", "/fapi/v1/algoOrder")
# Parameters of signed requests that are others each time.
_VOLATILE = {"timestamp", "signature", "recvWindow", "newClientOrderId", "clientAlgoId"}
DEFAULT_SECONDS = {"latency": 3.0, "clock_skew": -30.0}
CANDLE_SECONDS = 45.0

_STATUS = {"http_429": (429, -1003), "http_418": (418, -1003), "http_503": (503, -1001)}


class Rule(NamedTuple):
    """When a fault is served.

    :ivar kind: out of :data:`KINDS`
    :ivar rate: probability for each request or candle, from 0 to 1
    :ivar path: what the request's path has to contain
    :ivar symbol: Binance's symbol; None is any
    :ivar since_ms: from when on, Unix milliseconds; a candle by its open
    :ivar until_ms: until when
    :ivar times: how often at the most; None is any number
    :ivar seconds: how long, or how far off
    :ivar carried_out: of an order whose fate is unknown; None is drawn each time
    """

    kind: str
    rate: float = 1.0
    path: str = ""
    symbol: str | None = None
    since_ms: int = 0
    until_ms: int = 2**62
    times: int | None = None
    seconds: float = CANDLE_SECONDS
    carried_out: bool | None = None

    def applies(self, path: str, symbol: str | None, moment_ms: int) -> bool:
        """Whether a request, or a candle of a request, is meant."""
        return self.path in path and self.symbol in (None, symbol) and self.since_ms <= moment_ms < self.until_ms


class Fault(NamedTuple):
    """A fault that is served now.

    :ivar kind: out of :data:`REQUEST_FAULTS`
    :ivar seconds: see :class:`Rule`
    :ivar carried_out: whether an order whose fate is unknown is carried out
    :ivar is_dropped: whether its answer is a closed connection, and not a refusal
    """

    kind: str
    seconds: float
    carried_out: bool = True
    is_dropped: bool = False


class Faults:
    """Decides about faults, and counts them.

    :ivar served: how many of each kind
    """

    def __init__(self, rules: tuple[Rule, ...] = (), seed: int = 0, journal: Path | None = None) -> None:
        """
        :param rules: the first that is met counts
        :param seed: another seed gives other faults
        :param journal: gets a line of JSON for each fault
        """
        self._rules, self._seed, self._journal = rules, seed, journal
        self.served: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._used: Counter[int] = Counter()
        self._told: set[tuple[str, str, int]] = set()
        self._lock = threading.Lock()

    def of_request(self, path: str, parameters: Mapping[str, str], now_ms: int, method: str = "GET") -> Fault | None:
        """What happens to a request.

        :param parameters: of its query, and of its body
        :param now_ms: the moment, Unix milliseconds
        """
        lasting = sorted((name, value) for name, value in parameters.items() if name not in _VOLATILE)
        request = f"{path}?{lasting}" if method == "GET" else f"{method} {path}?{lasting}"
        symbol = parameters.get("symbol")
        is_order = method == "POST" and path in _ORDERS
        with self._lock:
            self._asked[request] += 1
            for number, rule in enumerate(self._rules):
                if rule.kind not in REQUEST_FAULTS or not rule.applies(path, symbol, now_ms):
                    continue
                if rule.kind == "order_unknown" and not is_order:
                    continue
                drawn = (request, self._asked[request])
                if self._is_used_up(number, rule) or not self._drawn(rule.rate, rule, number, *drawn):
                    continue
                self._used[number] += 1
                fault = Fault(rule.kind, rule.seconds)
                if rule.kind == "order_unknown":
                    chosen = rule.carried_out
                    fault = fault._replace(
                        carried_out=self._drawn(0.5, rule, number, "carried out", *drawn) if chosen is None else chosen,
                        is_dropped=self._drawn(0.5, rule, number, "dropped", *drawn),
                    )
                    request += f" carried out: {fault.carried_out}"
                self._count(rule.kind, now_ms, request)
                return fault
        return None

    def alter_klines(self, klines: list[list[Any]], path: str, symbol: str, interval: str, now_ms: int) -> list[Any]:
        """Serve the faults of candles.

        :param klines: Binance's arrays, oldest first; the last one may be forming and stays as it is
        :return: what is served instead
        """
        rules = [
            (number, rule)
            for number, rule in enumerate(self._rules)
            if rule.kind in CANDLE_FAULTS and rule.path in path and rule.symbol in (None, symbol)
        ]
        if not rules:
            return klines
        served: list[Any] = []
        for kline in klines:
            served += self._altered(kline, rules, f"{path} {symbol} {interval}", now_ms)
        return served

    def _altered(self, kline: list[Any], rules: list[tuple[int, Rule]], name: str, now_ms: int) -> list[list[Any]]:
        opened_ms, age_ms = kline[0], now_ms - (kline[6] + 1)
        for number, rule in rules:
            is_over = rule.kind != "missing" and age_ms >= rule.seconds * 1000
            if age_ms < 0 or is_over or not rule.since_ms <= opened_ms < rule.until_ms:
                continue
            with self._lock:
                told = (rule.kind, name, opened_ms)
                is_known = told in self._told
                if not is_known and self._is_used_up(number, rule):
                    continue
                if not self._drawn(rule.rate, rule, number, name, opened_ms):
                    continue
                if not is_known:
                    self._told.add(told)
                    self._used[number] += 1
                    self._count(rule.kind, now_ms, f"{name} {datetime.fromtimestamp(opened_ms / 1000, UTC)}")
            return _ALTERATIONS[rule.kind](kline)
        return [kline]

    def _is_used_up(self, number: int, rule: Rule) -> bool:
        return rule.times is not None and self._used[number] >= rule.times

    def _drawn(self, rate: float, rule: Rule, number: int, *what: object) -> bool:
        text = repr((self._seed, number, rule.kind, what))
        drawn = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64
        return drawn < rate

    def _count(self, kind: str, now_ms: int, target: str) -> None:
        self.served[kind] += 1
        if self._journal is not None:
            moment = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat()
            with self._journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": moment, "kind": kind, "target": target}) + "\n")


def refusal(kind: str) -> tuple[int, dict[str, object]] | None:
    """Status and content of a refusal in Binance's format; None for faults that are none."""
    if kind not in _STATUS:
        return None
    status, code = _STATUS[kind]
    return status, {"code": code, "msg": f"{REQUEST_FAULTS[kind]} (a fault served on purpose)"}


def random_rules(rate: float) -> tuple[Rule, ...]:
    """Rules by which every kind that real exchanges have is equally frequent.

    :param rate: of all together, for each request; and, for each order, of an unknown fate
    """
    share = rate / len(RANDOM_KINDS)
    # A request brings hundreds of candles, each of which would have its own gap.
    rules = [
        Rule(kind, share / 10 if kind == "missing" else share, seconds=_default_seconds(kind)) for kind in RANDOM_KINDS
    ]
    return (*rules, Rule("order_unknown", rate))


def read_rules(text: str) -> tuple[Rule, ...]:
    """Rules of a command line: a rate for everything, or a file.

    :param text: a number from 0 to 1, or the path of a JSON or TOML file whose ``faults`` is a list of rules: ``kind``
        and, where wanted, ``rate``, ``path``, ``symbol``, ``from``, ``until`` (UTC), ``times``, ``seconds``,
        ``carried_out``
    :raises ReplayError: naming what cannot be served
    """
    try:
        rate = float(text)
    except ValueError:
        return _read_script(Path(text))
    if not 0 <= rate <= 1:
        raise ReplayError(f"faults: the rate is {text}; accepted: a number from 0 to 1, or a JSON or TOML file")
    return random_rules(rate)


def _read_script(path: Path) -> tuple[Rule, ...]:
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise ReplayError(
            f"faults: {path} cannot be read: {error}; accepted: a rate, or a JSON or TOML file"
        ) from error
    entries = content.get("faults") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ReplayError(f"faults: {path} has no list `faults`; accepted: a list of tables with a `kind`")
    return tuple(_rule(entry, f"{path}: fault {number}") for number, entry in enumerate(entries, start=1))


def _rule(entry: Any, where: str) -> Rule:
    fields: dict[str, Callable[[Any], Any]] = {
        "kind": str,
        "rate": float,
        "path": str,
        "symbol": str,
        "from": _milliseconds,
        "until": _milliseconds,
        "times": int,
        "seconds": float,
        "carried_out": _truth,
    }
    if not isinstance(entry, dict) or not set(entry) <= set(fields):
        raise ReplayError(f"faults: {where} is {entry!r}; accepted: a table of {', '.join(fields)}")
    if entry.get("kind") not in KINDS:
        raise ReplayError(f"faults: {where}: kind is {entry.get('kind')!r}; accepted: {', '.join(KINDS)}")
    try:
        values = {name: fields[name](value) for name, value in entry.items()}
    except (TypeError, ValueError) as error:
        raise ReplayError(f"faults: {where} is {entry!r}: {error}") from error
    names = {"from": "since_ms", "until": "until_ms"}
    values.setdefault("seconds", _default_seconds(values["kind"]))
    return Rule(**{names.get(name, name): value for name, value in values.items()})


def _milliseconds(value: Any) -> int:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"carried_out is {value!r}; accepted: true or false")
    return value


def _default_seconds(kind: str) -> float:
    return DEFAULT_SECONDS.get(kind, CANDLE_SECONDS)


def _with(kline: list[Any], index: int, value: Any) -> list[Any]:
    return [*kline[:index], value, *kline[index + 1 :]]


def _revised(kline: list[Any]) -> list[Any]:
    # Within the candle's range, so that nothing but a later answer shows it.
    return _with(kline, 4, kline[1])


_ALTERATIONS: dict[str, Callable[[list[Any]], list[list[Any]]]] = {
    "late": lambda kline: [],
    "missing": lambda kline: [],
    "revised": lambda kline: [_revised(kline)],
    "in_1970": lambda kline: [_with(kline, 0, 0)],
    "high_below_low": lambda kline: [_with(_with(kline, 2, kline[3]), 3, kline[2])],
    "spike": lambda kline: [_with(kline, 2, f"{float(kline[1]) * 1e6:.8f}")],
    "duplicate": lambda kline: [kline, _revised(kline)],
}
