"""The policies of a backtest, found by path: which period decides at which candle, and with what.

Nothing here is held in FreqAI's memory, whose models in a backtest are those of the last period, and which a
hyperopt worker does not have at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mtfscalper import artefacts
from mtfscalper.freqai.exit_policy import DecidingPeriod, ExitPolicy, PeriodRows, TradeTerms
from mtfscalper.freqai.open_trade import PriceHistory
from mtfscalper.seals import Seals

FOLDER = "trade_decisions"
# Of a pair: the period that decides and the one before it.
PERIODS_IN_MEMORY = 2
# Files of a period that decide about trades.
_ROLES = ("model", "decisions")


class DecisionsError(RuntimeError):
    """What decides about open trades is missing or is not what it was. Names what, where, accepted, remedy."""


@dataclass(frozen=True)
class PlannedPeriod:
    """Where the policy of a period lies.

    :ivar first_ms: the first row that it decides on
    :ivar stop_ms: the first row that it no longer decides on
    :ivar folder: relative to the identifier's folder
    :ivar fingerprint: what its files were made from
    """

    first_ms: int
    stop_ms: int
    folder: str
    fingerprint: Mapping[str, str]


@dataclass(frozen=True)
class RunPlan:
    """The periods of one pair in the last run of an identifier, and the candles they were trained and traded on."""

    pair: str
    terms: TradeTerms
    periods: tuple[PlannedPeriod, ...]

    def write(self, root: Path, history: PriceHistory) -> None:
        """Put the plan where :class:`PolicyStore` looks for it.

        :param root: the identifier's folder
        """
        plan_path, history_path = _plan_paths(root, self.pair)
        content = _array_bytes(history._asdict())
        value = {
            "pair": self.pair,
            "terms": self.terms.as_json(),
            "periods": [asdict(period) for period in self.periods],
            "history_sha256": hashlib.sha256(content).hexdigest(),
        }
        # What lies there already is left alone: a run that trains nothing can be had in a folder that is read only.
        if not _holds(history_path, content):
            artefacts.write_bytes(history_path, content)
        text = json.dumps(value, indent=1)
        if not _holds(plan_path, text.encode()):
            artefacts.write_bytes(plan_path, text.encode())


def identifier_folder(config: Mapping[str, Any]) -> Path:
    """Where FreqAI and this package keep what they made for a config's identifier."""
    return Path(config["user_data_dir"]) / "models" / str(config["freqai"]["identifier"])


def read_plan(root: Path, pair: str) -> tuple[RunPlan, str]:
    """The plan of a pair's last run, and the SHA-256 of the file of its candles.

    :param root: the identifier's folder
    :raises DecisionsError: if there is none, or it cannot be read
    """
    path, _ = _plan_paths(root, pair)
    try:
        plan = json.loads(path.read_text())
        periods = tuple(PlannedPeriod(**period) for period in plan["periods"])
        return RunPlan(pair, TradeTerms.from_json(plan["terms"]), periods), plan["history_sha256"]
    except FileNotFoundError:
        raise _no_plan(pair, path) from None
    except (KeyError, TypeError) as error:
        raise DecisionsError(
            f"{pair}: {path} was written by another version of mtfscalper ({error}); accepted: this "
            "version's; remedy: run the backtest again"
        ) from error
    except ValueError as error:
        raise DecisionsError(
            f"{pair}: {path} is damaged ({error}); accepted: what a backtest leaves there; remedy: run the backtest "
            "again"
        ) from error


def _no_plan(pair: str, path: Path) -> DecisionsError:
    return DecisionsError(
        f"{pair}: {path} is missing, so that nothing can decide about its trades; accepted: what a backtest leaves "
        "there; remedy: run the backtest again"
    )


class PolicyStore:
    """Loads what decides about open trades, when it is asked for. Can be pickled: only paths travel."""

    def __init__(self, root: Path, seals: Seals) -> None:
        """
        :param root: the identifier's folder, ``user_data/models/<identifier>``
        :param seals: of the user directory
        """
        self._root, self._seals = root, seals
        self._pairs: dict[str, _PairPolicies] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_root": self._root, "_seals": self._seals, "_pairs": {}}

    def exit_policy(self, pair: str, row_ms: int) -> ExitPolicy | None:
        """The policy of the period that a closed candle belongs to.

        :param row_ms: the candle, milliseconds since 1970
        :return: None before the first period and after the last
        :raises DecisionsError: if no run has left a plan, or files are missing, damaged or made from something else
            than the plan's
        """
        known = self._pairs.get(pair)
        path = known.plan_path if known is not None else _plan_paths(self._root, pair)[0]
        try:
            written = path.stat().st_mtime_ns
        except FileNotFoundError:
            raise _no_plan(pair, path) from None
        if known is None or known.written != written:
            # Another run of this identifier has replaced it.
            known = self._pairs[pair] = _PairPolicies(self._root, self._seals, pair, written)
        at = bisect_right(known.starts, row_ms) - 1
        if at < 0 or row_ms >= known.periods[at].stop_ms:
            return None
        return known.loaded.get(at) or known.load(at)


class _PairPolicies:
    """The plan of one pair, and the policies of it that were asked for last."""

    def __init__(self, root: Path, seals: Seals, pair: str, written: int) -> None:
        self.written = written
        self._root, self._seals, self._pair = root, seals, pair
        self.plan_path, self._history_path = _plan_paths(root, pair)
        plan, self._history_sha256 = read_plan(root, pair)
        self.terms, self.periods = plan.terms, plan.periods
        self.starts = [period.first_ms for period in self.periods]
        self.loaded: OrderedDict[int, ExitPolicy] = OrderedDict()

    @cached_property
    def history(self) -> PriceHistory:
        """The candles of the run.

        :raises DecisionsError: if the file is not the one that the plan was written with
        """
        path = self._history_path
        if not path.is_file() or artefacts.file_hash(path) != self._history_sha256:
            raise DecisionsError(
                f"{self._pair}: {path} is missing or damaged; accepted: the candles of the last run; remedy: run the "
                "backtest again"
            )
        with np.load(path) as arrays:
            return PriceHistory(**{name: values.tolist() for name, values in arrays.items()})

    def load(self, at: int) -> ExitPolicy:
        """Load the policy of a period, and forget the one asked for longest ago.

        :param at: position of the period in the plan
        :raises DecisionsError: see :meth:`PolicyStore.exit_policy`
        """
        period = self.periods[at]
        folder = self._root / period.folder
        stale = artefacts.why_stale(folder, period.fingerprint, _ROLES, self._seals)
        if stale is not None:
            raise DecisionsError(
                f"{self._pair}: the policy in {folder} cannot decide about trades: {stale}; accepted: the one that "
                "the columns of this run were predicted with; remedy: run the backtest again, with decision_mode "
                "'exact'"
            )
        with np.load(artefacts.sealed_path(folder, "decisions")) as arrays:
            rows = PeriodRows(**arrays)
        # Here, because it imports torch: a strategy is loaded long before a policy is, and often without one.
        from mtfscalper.policy.inference import trade_decider_from_zip

        model, terms = artefacts.sealed_path(folder, "model"), self.terms
        decider = trade_decider_from_zip(model, terms.model_type, rows.features, terms.lookback)
        policy = ExitPolicy(self.terms, self.history, DecidingPeriod(period.first_ms, period.stop_ms, rows, decider))
        self.loaded[at] = policy
        while len(self.loaded) > PERIODS_IN_MEMORY:
            self.loaded.popitem(last=False)
        return policy


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays into one file, whole or not at all."""
    artefacts.write_bytes(path, _array_bytes(arrays))


def _array_bytes(arrays: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _plan_paths(root: Path, pair: str) -> tuple[Path, Path]:
    stem = root / FOLDER / re.sub(r"\W", "_", pair)
    return stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.npz")
