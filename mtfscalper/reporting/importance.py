"""What a policy looks at when it is asked about a trade: permutation importance by groups of inputs.

A sample of the run's own questions is asked again, with one group of inputs taken from other questions to the same
policy (Breiman 2001, https://doi.org/10.1023/A:1010933404324; of groups: Au et al. 2022,
https://doi.org/10.1007/s10618-022-00840-5). There is no right answer to lose accuracy against: what is measured is how
far the probability of leaving moves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper import artefacts
from mtfscalper.freqai.archive import why_not_that_version
from mtfscalper.freqai.exit_policy import PeriodRows, TradeTerms
from mtfscalper.market.lookback import lookbacks_ending_at
from mtfscalper.reporting.policies import RunPolicies
from mtfscalper.reporting.run_result import RunResult
from mtfscalper.seals import Seals
from mtfscalper.trading.account import FLAT
from mtfscalper.trading.arrays import NUMPY
from mtfscalper.trading.observation import Observation, observe

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

QUESTIONS = 2000
_SEED = 42
# Asked again, a question has the answer of the record up to the rounding of float32; a mean beyond is another policy.
_SLACK = 0.01
_ROLES = ("model", "decisions")
# As FreqAI names a feature: %-name-period_14_shift-1_BTC/USDTUSDT_1h
_FEATURE = re.compile(
    r"^%-(?P<name>.+?)(?:-period_\d+|_gen)?(?:_shift-\d+)?(?:_(?P<coin>[^_]+)_(?P<timeframe>\d+[mhdwM]))?(?:_shift-\d+)?$"
)
_ACCOUNT = {"profit of the trade": ("profit", "best_profit"), "time held": ("held",)}

_Floats = npt.NDArray[np.float32]


class GroupImportance(NamedTuple):
    """How far the exit probability moves when a group of inputs is shuffled.

    :ivar kind: ``indicator`` or ``timeframe`` of the features, or ``account``
    :ivar change: mean absolute change of the exit probability
    :ivar changed_minds: share of the questions that are then answered differently
    """

    kind: str
    name: str
    inputs: int
    change: float
    changed_minds: float


class Importance(NamedTuple):
    """What the policies of a run look at.

    :ivar questions: how many were asked again
    :ivar policies: of how many policies
    """

    questions: int
    policies: int
    groups: tuple[GroupImportance, ...]


def importance(result: RunResult, policies: RunPolicies, missing: list[str]) -> Importance | None:
    """Ask a run's policies again; reads, and writes nothing.

    :param missing: is told what cannot be said, one sentence each
    :return: None where nothing can be asked
    """
    archive, asked = result.archive, policies.questions
    if archive is None or asked is None or not len(asked):
        if policies.periods:
            missing.append("what the policies look at: there is no record of questions that could be asked again")
        return None
    sample = asked.sample(min(QUESTIONS, len(asked)), random_state=_SEED)
    seals = result.seals
    changes: dict[tuple[str, str], list[tuple[int, int, float, float]]] = {}
    n_asked = n_policies = 0
    for folder, rows in sample.groupby("policy", sort=True):
        policy = _Policy(archive.root / str(folder), policies.plans[str(rows["pair"].iloc[0])].terms)
        try:
            found = list(policy.changes(seals, rows))
        except Exception as error:  # a user's network may raise anything as it is loaded
            missing.append(f"what the policy of {policy.folder.parent.name} looks at: {error}")
            continue
        n_asked, n_policies = n_asked + len(rows), n_policies + 1
        for kind, name, inputs, change, minds in found:
            changes.setdefault((kind, name), []).append((len(rows), inputs, change, minds))
    if not changes:
        return None
    groups = []
    for (kind, name), parts in changes.items():
        weights, sizes, moved, minds = np.array(parts, dtype=np.float64).T
        mean = (float(np.average(values, weights=weights)) for values in (moved, minds))
        groups.append(GroupImportance(kind, name, int(sizes.max()), *mean))
    return Importance(n_asked, n_policies, tuple(sorted(groups, key=lambda group: -group.change)))


def feature_groups(names: Sequence[str], pair: str) -> dict[tuple[str, str], list[int]]:
    """Positions of features by kind and group: by indicator, whatever period, and by timeframe.

    :param names: as FreqAI has them
    :param pair: whose features they are; those of another one are groups of their own
    """
    groups: dict[tuple[str, str], list[int]] = {}
    own = pair.replace(":", "")
    for at, feature in enumerate(names):
        matched = _FEATURE.match(feature)
        name, coin, timeframe = matched.group("name", "coin", "timeframe") if matched else (feature, None, None)
        other = f" of {coin}" if coin and coin != own else ""
        groups.setdefault(("indicator", f"{name}{other}"), []).append(at)
        if timeframe:
            groups.setdefault(("timeframe", f"all of {timeframe}{other}"), []).append(at)
    return groups


class _Policy:
    """One sealed policy, to be asked again."""

    def __init__(self, folder: Path, terms: TradeTerms) -> None:
        self.folder, self._terms = folder, terms

    def changes(self, seals: Seals, asked: pd.DataFrame) -> Iterator[tuple[str, str, int, float, float]]:
        """Kind, name and size of each group, the mean change of the probability, and the share of changed minds.

        :raises ValueError: if the policy cannot be asked what it was asked
        """
        stale = why_not_that_version(self.folder, _ROLES, seals)
        if stale is not None:
            raise ValueError(f"it cannot be asked: {stale}")
        manifest = artefacts.read_manifest(self.folder) or {}
        with np.load(artefacts.sealed_path(self.folder, "decisions")) as arrays:
            rows = PeriodRows(**arrays)
        seen, account = self._seen(rows, asked)
        before = self._probabilities(seen, account)
        off = float(np.abs(before - asked["probability"].to_numpy()).mean())
        if off > _SLACK:
            raise ValueError(f"asked again it answers otherwise, by {off:.3f} on average; accepted: the run's policy")
        return self._shuffled(manifest, seen, account, before)

    def _seen(self, rows: PeriodRows, asked: pd.DataFrame) -> tuple[_Floats, Observation]:
        """Lookbacks of shape (n, lookback, n_features), and what was shown beside them."""
        timeframe_ms = int(np.diff(rows.dates_ms).min())
        asked_ms = asked["candle"].dt.as_unit("ms").astype("int64").to_numpy()
        at = np.searchsorted(rows.dates_ms, asked_ms - timeframe_ms)
        lookback = self._terms.lookback
        seen = lookbacks_ending_at(rows.features, at, lookback).reshape(len(at), lookback, -1)
        side = np.where(asked["side"] == "long", 1.0, -1.0)
        profit, best, held = (asked[name].to_numpy() for name in ("profit", "best_profit", "held_candles"))
        account = FLAT._replace(side=side, best_profit=best, held_candles=held)
        permitted = (of[at].astype(np.float64) for of in (rows.long_permitted, rows.short_permitted))
        own_rows = np.arange(len(at), dtype=np.float64) * lookback + lookback - 1
        return seen, observe(NUMPY, self._terms.rules, self._terms.view, own_rows, account, profit, *permitted)

    @cached_property
    def _model(self) -> BaseAlgorithm:
        from mtfscalper.policy.algorithms import algorithm_class

        path = artefacts.sealed_path(self.folder, "model")
        model: BaseAlgorithm = algorithm_class(self._terms.model_type).load(path, device="cpu")
        return model

    def _probabilities(self, seen: _Floats, account: Observation) -> npt.NDArray[np.float64]:
        # Here, because it imports torch, which a run without our model does without.
        from mtfscalper.policy.inference import WholeTradeDecider, decider_for

        decider = decider_for(self._model, seen.reshape(-1, seen.shape[2]), self._terms.lookback)
        observations = list(map(Observation._make, np.stack(account, axis=1).tolist()))
        return np.array([answer.exit_probability for answer in WholeTradeDecider(decider).decide(observations)])

    def _shuffled(
        self, manifest: dict[str, Any], seen: _Floats, account: Observation, before: npt.NDArray[np.float64]
    ) -> Iterator[tuple[str, str, int, float, float]]:
        order = np.random.default_rng(_SEED).permutation(len(seen))
        names = [str(name) for name in manifest.get("features", ())]
        groups = feature_groups(names, str(manifest.get("pair")))
        for (kind, name), members in groups.items():
            other = seen.copy()
            other[:, :, members] = seen[order][:, :, members]
            yield kind, name, len(members), *_moved(before, self._probabilities(other, account))
        if self._terms.view.state_info:
            for name, fields in _ACCOUNT.items():
                changed = account._replace(**{field: getattr(account, field)[order] for field in fields})
                yield "account", name, len(fields), *_moved(before, self._probabilities(seen, changed))


def _moved(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> tuple[float, float]:
    return float(np.abs(after - before).mean()), float(((after > 0.5) != (before > 0.5)).mean())
