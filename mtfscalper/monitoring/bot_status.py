"""How a bot is, judged from what it last told of itself: a table, an exit status, and figures for Prometheus.

Reads a small file and no more: neither torch nor freqtrade is imported, and nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mtfscalper.freqai.health import HEALTH_NAME, BotHealth, HealthError, PairHealth, read_health
from mtfscalper.freqai.sharing import Process

# A bot passes over its pairs at every candle; after so many without, it hangs or its exchange is away.
_SILENT_CANDLES = 3
# For a pass and for an exchange that publishes late.
_GRACE_SECONDS = 60.0
# A training takes its time, and pairs wait for one another.
_OVERDUE_SECONDS = 3600.0


class Level(IntEnum):
    """How a bot is, as exit status of a check: the convention of Nagios, which other monitoring systems follow."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.CRITICAL: "bold red", Level.UNKNOWN: "magenta"}


class Finding(NamedTuple):
    """Something that is not as it should be."""

    level: Level
    text: str


class Status(NamedTuple):
    """A bot's health, and what is found about it.

    :ivar health: None where it cannot be read
    :ivar now: by the bot's clock, seconds since 1970
    :ivar runs: whether its process lives and has not been stopped
    """

    identifier: str
    health: BotHealth | None
    now: float
    runs: bool
    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """Of the worst finding."""
        return max((finding.level for finding in self.findings), default=Level.OK)

    @classmethod
    def of(cls, folder: Path) -> Status:
        """The status of the bot of an identifier's folder."""
        try:
            health = read_health(folder)
            # A bot's clock may be simulated: it has moved on by as much as this one has since the file was written.
            now = health.at + max(0.0, time.time() - (folder / HEALTH_NAME).stat().st_mtime)
        except HealthError as error:
            return cls(folder.name, None, time.time(), False, (Finding(Level.UNKNOWN, str(error)),))
        lives = Process(**health.process).may_live(time.time())
        runs = lives and not health.stopped_at
        return cls(folder.name, health, now, runs, tuple(_findings(health, now, lives)))


def statuses(models: Path, identifier: str | None) -> list[Status]:
    """The status of a bot, or of every bot that has run in a user directory.

    :param models: ``user_data/models``
    """
    if identifier is not None:
        return [Status.of(models / identifier)]
    found = [Status.of(path.parent) for path in sorted(models.glob(f"*/{HEALTH_NAME}"))]
    missing = Finding(Level.UNKNOWN, f"{models} holds no {HEALTH_NAME}: no bot of this version has run there")
    return found or [Status("-", None, time.time(), False, (missing,))]


def worst(found: Sequence[Status]) -> Level:
    """The exit status of several bots: critical before unknown."""
    order = (Level.OK, Level.WARNING, Level.UNKNOWN, Level.CRITICAL)
    return max((status.level for status in found), key=order.index, default=Level.UNKNOWN)


def _findings(health: BotHealth, now: float, lives: bool) -> Iterator[Finding]:
    process = Process(**health.process)
    if health.stopped_at:
        yield Finding(Level.CRITICAL, f"the bot was stopped at {_moment(health.stopped_at)}")
    elif not lives:
        yield Finding(Level.CRITICAL, f"{process} is gone: it was killed, or it crashed")
    elif now - health.looked_at > _SILENT_CANDLES * health.candle_seconds + _GRACE_SECONDS:
        yield Finding(
            Level.CRITICAL,
            f"no candle was analysed for {_age(now - health.looked_at)}: the exchange gives none, or the bot hangs",
        )
    if lives and not health.stopped_at and not health.trains:
        yield Finding(Level.WARNING, "the training thread has ended; the bot's next candle starts it again")
    for pair, each in health.pairs.items():
        if not each.is_listed:
            # It is neither entered nor trained, and its trade goes on.
            pass
        elif not each.trained_at:
            yield Finding(Level.WARNING, f"{pair}: no policy has been trained yet, so nothing is traded")
        elif each.expires_at and now > each.expires_at:
            yield Finding(Level.CRITICAL, f"{pair}: its policy has expired, so nothing is entered")
        # Of one pair: where the bot as a whole is silent, that has been said.
        closed_at = each.candle_at + health.candle_seconds if each.candle_at else 0.0
        silent = health.looked_at - max(closed_at, each.met_at)
        if (closed_at or each.met_at) and silent > _SILENT_CANDLES * health.candle_seconds + _GRACE_SECONDS:
            what = "no candle of it was analysed, while others were,"
            since = (
                f"since the one that closed {_age(silent)} before"
                if closed_at >= each.met_at
                else f"in the {_age(silent)} since the bot began to trade it"
            )
            yield Finding(Level.CRITICAL, f"{pair}: {what} {since}: the exchange gives none that is sound")
        late = now - each.retrain_at - health.retrain_seconds
        if each.is_listed and each.trained_at and not each.training_since and late > _OVERDUE_SECONDS:
            yield Finding(Level.WARNING, f"{pair}: its training is overdue by {_age(now - each.retrain_at)}")
    for message in health.troubles.values():
        yield Finding(Level.WARNING, message)


# ---------------------------------------------------------------------- for people


def show(status: Status, console: Console) -> None:
    """Print a status: the bot in a line, its pairs in a table, and what is wrong."""
    title = Text.assemble((f"{status.level.name}", _STYLES[status.level]), f"  {status.identifier}")
    health = status.health
    if health is not None:
        process = Process(**health.process)
        title.append(f", {health.runmode.replace('_', ' ')}, process {process.pid} on {process.host}, ")
        title.append(f"last candle analysed {_age(status.now - health.looked_at)} ago")
    parts: list[Text | Table] = [title]
    if health is not None and health.pairs:
        parts.append(_pairs_table(health, status.now))
    parts += [Text(f"• {finding.text}", style=_STYLES[finding.level]) for finding in status.findings]
    console.print(Group(*parts))


def _pairs_table(health: BotHealth, now: float) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    names = ["pair", "model age", "features", "next training", "last training", "last decision", "open trade"]
    is_guarded = any(each.falls_back is not None for each in health.pairs.values())
    for name in [*names, *(["ends trades"] if is_guarded else [])]:
        table.add_column(name, overflow="fold", no_wrap=name == "pair")
    for pair, each in health.pairs.items():
        table.add_row(
            pair,
            _age(now - each.trained_at) if each.trained_at else "none yet",
            str(each.n_features) if each.n_features else "–",
            _next_training(each, now),
            _last_training(each, now),
            _last_decision(each),
            _asked(each, now, health.candle_seconds),
            *([_ends_trades(each)] if is_guarded else []),
        )
    return table


def _ends_trades(each: PairHealth) -> Text:
    if each.falls_back is None:
        return Text("–")
    return Text("the rules (fallback)", style=_STYLES[Level.WARNING]) if each.falls_back else Text("the policy")


def _next_training(each: PairHealth, now: float) -> Text:
    if each.training_since:
        return Text(f"now, for {_age(now - each.training_since)}")
    if not each.is_listed:
        return Text("none: off the whitelist")
    attempt = f", attempt {each.n_failures + 1}" if each.n_failures else ""
    due = f"in {_age(each.retrain_at - now)}" if each.retrain_at > now else "due"
    return Text(due + attempt)


def _last_training(each: PairHealth, now: float) -> Text:
    if not each.ended_at:
        return Text("none since the start")
    when = f"{_age(now - each.ended_at)} ago"
    if each.error:
        return Text(f"failed {when}", style=_STYLES[Level.WARNING])
    return Text(f"well, in {_age(each.seconds)}, {when}")


def _last_decision(each: PairHealth) -> Text:
    if not each.candle_at:
        return Text("–")
    counts = "" if each.do_predict == 1 else f", do_predict {each.do_predict}"
    action = each.action.lower().replace("_", " ") if each.action != "NEUTRAL" else "nothing"
    at = f"{datetime.fromtimestamp(each.candle_at, UTC):%H:%M}"
    return Text(f"{action}, {each.probability:.2f}, of {at}{counts}")


def _asked(each: PairHealth, now: float, candle_seconds: float) -> Text:
    # A trade that is open is asked about at every candle.
    if now - each.asked_at > 2 * candle_seconds + _GRACE_SECONDS:
        return Text("–")
    return Text(f"{'leave' if each.leave else 'hold'}, p(leave) {each.leave_probability:.2f}")


def _age(seconds: float) -> str:
    seconds = max(0.0, seconds)
    for unit, length in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


# ---------------------------------------------------------------------- for Prometheus


def prometheus(found: Sequence[Status]) -> str:
    """The figures in Prometheus's text format, as node_exporter's textfile collector reads it."""
    metrics: dict[str, tuple[str, list[tuple[dict[str, str], float]]]] = {
        name: (what, []) for name, what in _METRICS.items()
    }
    for status in found:
        bot = {"identifier": status.identifier}
        metrics["status"][1].append((bot, status.level))
        health = status.health
        if health is None:
            continue
        metrics["up"][1].append((bot, float(status.runs)))
        metrics["last_pass_timestamp_seconds"][1].append((bot, health.looked_at))
        metrics["troubles"][1].append((bot, len(health.troubles)))
        for pair, each in health.pairs.items():
            labels = {**bot, "pair": pair}
            for name, field in _OF_PAIR.items():
                metrics[name][1].append((labels, float(getattr(each, field))))
            metrics["last_training_failed"][1].append((labels, float(bool(each.error))))
            metrics["listed"][1].append((labels, float(each.is_listed)))
            if each.falls_back is not None:
                metrics["falls_back"][1].append((labels, float(each.falls_back)))
    lines = []
    for name, (what, samples) in metrics.items():
        if samples:
            lines += [f"# HELP mtfscalper_{name} {what}", f"# TYPE mtfscalper_{name} gauge"]
            lines += [f"mtfscalper_{name}{{{_labels(labels)}}} {value:.15g}" for labels, value in samples]
    return "\n".join(lines) + "\n"


# By name, without the prefix: what each is. Times are by the bot's clock.
_METRICS = {
    "status": "0 fine, 1 warning, 2 critical, 3 unknown",
    "up": "Whether the process of the bot runs",
    "last_pass_timestamp_seconds": "When the bot last analysed a candle",
    "troubles": "What the owner was told of and is not over",
    "model_trained_timestamp_seconds": "When the policy in use was trained, 0 for none",
    "model_expires_timestamp_seconds": "When the policy in use expires, 0 for never",
    "listed": "Whether the pair is on the whitelist; 0 where it has left it with a trade open, and is not trained",
    "next_training_timestamp_seconds": "When the pair is trained next, 0 where it is not on the whitelist",
    "model_features": "Features of a candle that the policy sees",
    "training_failures": "Trainings that failed in a row",
    "last_training_failed": "Whether the last training failed",
    "last_training_seconds": "How long the last training took",
    "decision_candle_timestamp_seconds": "The last candle decided on, by its open",
    "decision_probability": "The probability that the policy gave its last decision",
    "do_predict": "1 where the last decision counts, 2 where the policy has expired",
    "falls_back": "1 where the policy does not beat classic exits and the rules end its trades (rl_config.fallback)",
}
_OF_PAIR = {
    "model_trained_timestamp_seconds": "trained_at",
    "model_expires_timestamp_seconds": "expires_at",
    "next_training_timestamp_seconds": "retrain_at",
    "model_features": "n_features",
    "training_failures": "n_failures",
    "last_training_seconds": "seconds",
    "decision_candle_timestamp_seconds": "candle_at",
    "decision_probability": "probability",
    "do_predict": "do_predict",
}


def _labels(labels: dict[str, str]) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items())
