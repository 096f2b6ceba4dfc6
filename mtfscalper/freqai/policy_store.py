"""The policies of a backtest, found by path: which window decides at which candle, and with what.

Nothing here is held in FreqAI's memory, whose models in a backtest are those of the last window, and which a
hyperopt worker does not have at all.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mtfscalper import artefacts
from mtfscalper.freqai.open_trade import PriceHistory
from mtfscalper.policy.inference import TradeQuery, trade_query_from_zip
from mtfscalper.trading.observation import TradeView
from mtfscalper.trading.rules import TradingRules

FOLDER = "trade_decisions"
# Of a pair: the window that decides and the one before it.
WINDOWS_IN_MEMORY = 2
# Files of a window that decide about trades.
_ROLES = ("model", "decisions")


class DecisionsError(RuntimeError):
    """What decides about open trades is missing or is not what it was. Names what, where, accepted, remedy."""


class TradeTerms(NamedTuple):
    """How a trade is shown to the policy that was trained for it.

    :ivar window: candles in an observation
    :ivar model_type: stable-baselines3's algorithm
    """

    rules: TradingRules
    view: TradeView
    window: int
    model_type: str

    def as_json(self) -> dict[str, Any]:
        """What :meth:`of_json` reads."""
        return self._asdict() | {"rules": asdict(self.rules)}

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> TradeTerms:
        """The terms that :meth:`as_json` wrote."""
        rules = dict(value["rules"])
        rules["minimal_roi"] = tuple((start, ratio) for start, ratio in rules["minimal_roi"])
        return cls(**{**value, "rules": TradingRules(**rules), "view": TradeView(*value["view"])})


class WindowRows(NamedTuple):
    """The rows of a window, as its policy sees them; arrays of shape (n_rows,) but for the features.

    :ivar decidable: whether the whole window of candles up to the row is there
    :ivar features: scaled, float32, shape (n_rows, n_features)
    """

    dates_ms: npt.NDArray[np.int64]
    decidable: npt.NDArray[np.bool_]
    long_permitted: npt.NDArray[np.bool_]
    short_permitted: npt.NDArray[np.bool_]
    features: npt.NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write the rows, whole or not at all."""
        _save_arrays(path, self._asdict())

    @classmethod
    def load(cls, path: Path) -> WindowRows:
        with np.load(path) as arrays:
            return cls(**arrays)


class DecidingWindow:
    """A policy over the rows of its window."""

    def __init__(self, rows: WindowRows, query: TradeQuery) -> None:
        self.query = query
        # Looked up one by one, which Python's own containers answer faster than arrays. Flat ones: a backtest holds so
        # many objects that making thousands of small containers sets the garbage collector off.
        decidable = rows.decidable.nonzero()[0]
        self._row_of = dict(zip(rows.dates_ms[decidable].tolist(), decidable.tolist(), strict=True))
        self._long_permitted, self._short_permitted = rows.long_permitted.tolist(), rows.short_permitted.tolist()

    def decidable_row(self, date_ms: int) -> tuple[int, tuple[bool, bool]] | None:
        """The row of a closed candle, and whether long and short entries are permitted there.

        :return: None if there is no such row, or its window of candles is not whole
        """
        row = self._row_of.get(date_ms)
        return None if row is None else (row, (self._long_permitted[row], self._short_permitted[row]))


@dataclass(frozen=True)
class PlannedWindow:
    """Where the policy of a window lies.

    :ivar first_ms: the first row that it decides on
    :ivar stop_ms: the first row that it no longer decides on
    :ivar folder: relative to the identifier's folder
    :ivar fingerprint: what its files were made from
    :ivar unchanged_since: when its files were last written, role to nanoseconds since 1970; those written later are
        hashed again
    """

    first_ms: int
    stop_ms: int
    folder: str
    fingerprint: Mapping[str, str]
    unchanged_since: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RunPlan:
    """The windows of one pair in the last run of an identifier, and the candles they were trained and traded on."""

    pair: str
    terms: TradeTerms
    windows: tuple[PlannedWindow, ...]

    def write(self, root: Path, history: PriceHistory) -> None:
        """Put the plan where :class:`PolicyRegistry` looks for it.

        :param root: the identifier's folder
        """
        plan_path, history_path = _plan_paths(root, self.pair)
        _save_arrays(history_path, history._asdict())
        windows = [replace(window, unchanged_since=_written_at(root / window.folder)) for window in self.windows]
        value = {
            "pair": self.pair,
            "terms": self.terms.as_json(),
            "windows": [asdict(window) for window in windows],
            "history_sha256": artefacts.file_hash(history_path),
        }
        artefacts.write_json(plan_path, value)


class PolicyRegistry:
    """Loads what decides about open trades, when it is asked for. Can be pickled: only paths travel."""

    def __init__(self, root: Path) -> None:
        """
        :param root: the identifier's folder, ``user_data/models/<identifier>``
        """
        self._root = root
        self._pairs: dict[str, PairPolicies] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_root": self._root, "_pairs": {}}

    def of_pair(self, pair: str) -> PairPolicies:
        """What decides about a pair's trades.

        :raises DecisionsError: if no run has left a plan, or one that is damaged
        """
        plan_path, _ = _plan_paths(self._root, pair)
        try:
            written = plan_path.stat().st_mtime_ns
        except FileNotFoundError:
            raise DecisionsError(
                f"{pair}: {plan_path} is missing, so that nothing can decide about its trades; accepted: what a "
                "backtest with decision_mode 'exact' leaves there; remedy: run the backtest again"
            ) from None
        known = self._pairs.get(pair)
        if known is None or known.written != written:
            # Another run of this identifier has replaced it.
            known = self._pairs[pair] = PairPolicies(self._root, pair, written)
        return known


class PairPolicies:
    """The plan of one pair, and the windows of it that were asked for last."""

    def __init__(self, root: Path, pair: str, written: int) -> None:
        self.written = written
        self._root, self._pair = root, pair
        plan_path, _ = _plan_paths(root, pair)
        plan = json.loads(plan_path.read_text())
        self.terms = TradeTerms.of_json(plan["terms"])
        self._history_sha256 = plan["history_sha256"]
        self._windows = [PlannedWindow(**window) for window in plan["windows"]]
        self._starts = [window.first_ms for window in self._windows]
        self._loaded: OrderedDict[int, DecidingWindow] = OrderedDict()

    @cached_property
    def history(self) -> PriceHistory:
        """The candles of the run.

        :raises DecisionsError: if the file is not the one that the plan was written with
        """
        _, path = _plan_paths(self._root, self._pair)
        if not path.is_file() or artefacts.file_hash(path) != self._history_sha256:
            raise DecisionsError(
                f"{self._pair}: {path} is missing or damaged; accepted: the candles of the last run; remedy: run the "
                "backtest again"
            )
        with np.load(path) as arrays:
            return PriceHistory(**{name: values.tolist() for name, values in arrays.items()})

    def window_of(self, row_ms: int) -> DecidingWindow | None:
        """The window that a closed candle belongs to, None before the first and after the last.

        :raises DecisionsError: if its files are missing, damaged or made from something else than the plan's
        """
        at = bisect_right(self._starts, row_ms) - 1
        if at < 0 or row_ms >= self._windows[at].stop_ms:
            return None
        loaded = self._loaded.get(at)
        if loaded is None:
            loaded = self._loaded[at] = self._load(self._windows[at])
            while len(self._loaded) > WINDOWS_IN_MEMORY:
                self._loaded.popitem(last=False)
        return loaded

    def _load(self, window: PlannedWindow) -> DecidingWindow:
        folder = self._root / window.folder
        roles = _ROLES if _written_at(folder) != window.unchanged_since else ()
        stale = artefacts.why_stale(folder, window.fingerprint, roles)
        if stale is not None:
            raise DecisionsError(
                f"{self._pair}: the policy in {folder} cannot decide about trades: {stale}; accepted: the one that "
                "the columns of this run were predicted with; remedy: run the backtest again"
            )
        rows = WindowRows.load(artefacts.sealed_path(folder, "decisions"))
        model = artefacts.sealed_path(folder, "model")
        query = trade_query_from_zip(model, self.terms.model_type, rows.features, self.terms.window)
        return DecidingWindow(rows, query)


def _written_at(folder: Path) -> dict[str, int]:
    """When the files of a window that decide about trades were written, nanoseconds since 1970, by role."""
    files = (artefacts.read_manifest(folder) or {"files": {}})["files"]
    paths = {role: folder / files[role]["path"] for role in _ROLES if role in files}
    return {role: path.stat().st_mtime_ns for role, path in paths.items() if path.is_file()}


def _plan_paths(root: Path, pair: str) -> tuple[Path, Path]:
    stem = root / FOLDER / re.sub(r"\W", "_", pair)
    return stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.npz")


def _save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    def write(target: Path) -> None:
        # A file object: savez would add its own suffix to a name.
        with target.open("wb") as file:
            np.savez(file, **arrays)

    artefacts.write_atomically(path, write)
