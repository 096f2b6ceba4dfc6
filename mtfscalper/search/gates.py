"""Gates: what a study's winner must show on the locked candles before it is deployed, each a figure and a threshold.

All of them are figures of the paired difference: what the run earned on a day less what the same entries earned with
classic exits, as shares of the stakes. A gate that cannot be computed is not passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from mtfscalper.reporting.intervals import (
    DRAWS,
    ENOUGH_DAYS,
    ENOUGH_DIFFERENT_DAYS,
    LEVEL,
    NO_DIFFERENCE,
    mean_interval,
)
from mtfscalper.reporting.sharpe import annual_sharpe, deflated_sharpe
from mtfscalper.reporting.wording import number, percent
from mtfscalper.search.overfitting import FEWEST_DAYS, overfitting

SEED = 42

_Floats = npt.NDArray[np.float64]


class Limits(BaseModel):
    """The thresholds of the gates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deflated_sharpe: float = Field(0.95, gt=0, lt=1)
    overfitting: float = Field(0.5, gt=0, lt=1)
    trades: int = Field(100, ge=1)
    drawdown: float = Field(0.25, gt=0, lt=1)
    fee_factor: float = Field(1.5, gt=1)
    late_candles: int = Field(1, ge=1)


class Gate(NamedTuple):
    """One figure held against its threshold.

    :ivar key: short name, for JSON
    :ivar name: as a table has it
    :ivar value: None where it cannot be computed
    :ivar has: the value as a table has it
    :ivar needs: the threshold, with its sign
    :ivar why: one line
    """

    key: str
    name: str
    value: float | None
    threshold: float
    passed: bool
    has: str
    needs: str
    why: str

    def as_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads."""
        return self._asdict()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Gate:
        """The gate that :meth:`as_json` wrote."""
        return cls(**value)


class SeedDays(NamedTuple):
    """What one seed's run on the locked candles showed.

    :ivar differences: paired, of each day of the run, shape (n_days,)
    :ivar trades: how many
    :ivar max_drawdown: of the run, a share of its peak
    :ivar dear: the difference of a day on average with higher fees, as ``late`` with later entries; None where it
        cannot be computed
    """

    seed: int
    differences: _Floats
    trades: int
    max_drawdown: float
    dear: float | None
    late: float | None


class TrialDays(NamedTuple):
    """What a trial of the study showed on the validation periods.

    :ivar complete: whether all its runs are done, so that it could have been chosen
    :ivar days: since 1970, of its runs; empty where none is done
    :ivar differences: paired, of each of these days, the mean of its seeds
    """

    number: int
    complete: bool
    days: tuple[int, ...] = ()
    differences: tuple[float, ...] = ()


def interval_level(look: int) -> float:
    """The level of the interval at a look: what may be wrong is halved each time.

    At the second look that is Bonferroni's correction; as the halves of halves add up to no more than twice the first,
    so does what all looks together may be wrong, however many there are.

    :param look: at the locked candles, 1 for the first
    """
    return float(1 - (1 - LEVEL) / 2 ** (look - 1))


def gates_of(
    seeds: Sequence[SeedDays], trials: Sequence[TrialDays], look: int, limits: Limits | None = None
) -> tuple[Gate, ...]:
    """Hold a winner against every gate.

    :param seeds: of the locked candles, all over the same days
    :param trials: all that the study ever ran, those pruned too
    :param look: how many times its locked candles were looked at, this time and other studies included
    """
    limits = limits or Limits()
    daily = np.mean([one.differences for one in seeds], axis=0)
    return (
        _interval(daily, look),
        _deflated(daily, trials, limits),
        _overfitting(trials, limits),
        _trades(seeds, limits),
        _drawdown(seeds, limits),
        _varied(
            "dear",
            f"fees × {limits.fee_factor:g}",
            [one.dear for one in seeds],
            "at higher fees, its exits as they are",
        ),
        _varied(
            "late",
            f"entries {limits.late_candles} candle{'s' * (limits.late_candles > 1)} late",
            [one.late for one in seeds],
            "entered later, its exits as they are",
        ),
        _spread(seeds),
    )


# ---------------------------------------------------------------------- each of them


def _interval(daily: _Floats, look: int) -> Gate:
    level = interval_level(look)
    # As many draws beyond either end as at the first look.
    found = mean_interval(daily, np.ones(len(daily)), SEED, draws=DRAWS * 2 ** min(look - 1, 4), level=level)
    name = f"paired difference a day, lower end of a {100 * level:.4g} % interval"
    looked = "" if look == 1 else f"; look {look} at these candles, so not {100 * LEVEL:g} %"
    if found.low is None or found.high is None:
        why = (
            f"an interval needs {ENOUGH_DAYS} days and a difference on {ENOUGH_DIFFERENT_DAYS} of them, and there are "
            f"{len(daily)} and {int((np.abs(daily) > NO_DIFFERENCE).sum())}"
        )
        return _gate("interval", name, None, 0.0, False, "–", "> 0", why)
    passed = found.low > 0
    said = f"{percent(found.mean, 3)} of the stakes, {percent(found.low, 3)} to {percent(found.high, 3)}{looked}"
    return _gate("interval", name, found.low, 0.0, passed, percent(found.low, 3), "> 0", said)


def _deflated(daily: _Floats, trials: Sequence[TrialDays], limits: Limits) -> Gate:
    name, needs = "deflated Sharpe ratio", f"≥ {limits.deflated_sharpe:g}"
    sharpes = [annual_sharpe(np.array(trial.differences)) for trial in trials if len(trial.differences) > 1]
    found = deflated_sharpe(daily, sharpes, len(trials))
    if found is None:
        why = (
            f"it needs two trials whose days are known and days that differ; there are {len(sharpes)} such trials of "
            f"{len(trials)}"
        )
        return _gate("deflated_sharpe", name, None, limits.deflated_sharpe, False, "–", needs, why)
    passed = found.probability >= limits.deflated_sharpe
    why = (
        f"Sharpe ratio {number(annual_sharpe(daily))} a year; the best of {found.trials} trials of no worth would show "
        f"{number(found.expected_best)}"
    )
    return _gate(
        "deflated_sharpe",
        name,
        found.probability,
        limits.deflated_sharpe,
        passed,
        f"{found.probability:.3f}",
        needs,
        why,
    )


def _overfitting(trials: Sequence[TrialDays], limits: Limits) -> Gate:
    name, needs = "probability of backtest overfitting", f"≤ {limits.overfitting:g}"
    chosen_from = [trial for trial in trials if trial.complete and trial.days]
    # Those that can be compared: the same days.
    days = {trial.days for trial in chosen_from}
    found = None
    if len(days) == 1:
        found = overfitting(np.array([trial.differences for trial in chosen_from]).T)
    if found is None:
        why = (
            f"it needs two finished trials that differ, on the same {FEWEST_DAYS} days or more; there are "
            f"{len(chosen_from)} finished ones on {len(next(iter(days), ()))} days"
        )
        if len(days) > 1:
            why = f"the {len(chosen_from)} finished trials are not all of the same days"
        return _gate("overfitting", name, None, limits.overfitting, False, "–", needs, why)
    why = (
        f"of {found.halvings:,} halvings of the days, the share whose best of {found.trials} trials is below the "
        "middle on the other half"
    )
    passed = found.probability <= limits.overfitting
    has = f"{found.probability:.3f}"
    return _gate("overfitting", name, found.probability, limits.overfitting, passed, has, needs, why)


def _trades(seeds: Sequence[SeedDays], limits: Limits) -> Gate:
    fewest = min(one.trades for one in seeds)
    why = f"the fewest of {_seeds(seeds)} on {len(seeds[0].differences)} days"
    return _gate(
        "trades", "trades", fewest, limits.trades, fewest >= limits.trades, str(fewest), f"≥ {limits.trades}", why
    )


def _drawdown(seeds: Sequence[SeedDays], limits: Limits) -> Gate:
    worst = max(one.max_drawdown for one in seeds)
    has, needs = f"{100 * worst:.1f} %", f"≤ {100 * limits.drawdown:g} %"
    why = f"of the wallet, from its peak; the deepest of {_seeds(seeds)}"
    return _gate("drawdown", "drawdown", worst, limits.drawdown, worst <= limits.drawdown, has, needs, why)


def _varied(key: str, name: str, values: Sequence[float | None], how: str) -> Gate:
    known = [value for value in values if value is not None]
    if not values or len(known) < len(values):
        return _gate(key, name, None, 0.0, False, "–", "> 0", "some seed made no trade that can be re-lived")
    mean = float(np.mean(known))
    why = f"paired difference a day {how}, the mean of {len(known)} seeds"
    return _gate(key, name, mean, 0.0, mean > NO_DIFFERENCE, percent(mean, 3), "> 0", why)


def _spread(seeds: Sequence[SeedDays]) -> Gate:
    """More than half of the seeds gain, and none loses as much as they gain together.

    A bot runs one seed, and nobody knows which will be a good one.
    """
    means = np.array([one.differences.mean() for one in seeds])
    mean, worst, above = float(means.mean()), float(means.min()), int((means > NO_DIFFERENCE).sum())
    name, needs = "spread over seeds", "> half gain"
    if len(means) < 2:
        return _gate("spread", name, None, 0.0, False, "–", needs, "one seed says nothing of others; it needs two")
    passed = above > len(means) / 2 and mean > NO_DIFFERENCE and worst > -mean
    has = f"{above} of {len(means)}"
    why = (
        f"differences a day from {percent(worst, 3)} to {percent(float(means.max()), 3)}, mean {percent(mean, 3)}; "
        "none may lose as much as all gain on average"
    )
    return _gate("spread", name, worst, -mean, passed, has, needs, why)


def _seeds(seeds: Sequence[SeedDays]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"


def _gate(
    key: str, name: str, value: float | None, threshold: float, passed: bool, has: str, needs: str, why: str
) -> Gate:
    return Gate(key, name, None if value is None else float(value), float(threshold), bool(passed), has, needs, why)
