"""How often a policy chose each action: on candles without a trade, and when it was asked about one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mtfscalper import artefacts
from mtfscalper.freqai.archive import why_not_that_version
from mtfscalper.freqai.columns import ACTION_COLUMN
from mtfscalper.reporting.policies import RunPolicies
from mtfscalper.reporting.run_result import RunResult
from mtfscalper.seals import Seals
from mtfscalper.trading.actions import Action

_NAMES = {
    Action.NEUTRAL: "wait",
    Action.LONG_ENTER: "enter long",
    Action.SHORT_ENTER: "enter short",
    Action.LONG_EXIT: "leave long",
    Action.SHORT_EXIT: "leave short",
}
_HOLD = "hold"

Shares = dict[str, dict[str, float]]


def action_shares(result: RunResult, policies: RunPolicies, missing: list[str]) -> Shares:
    """Shares of the actions, by row and action; empty without a policy.

    :param missing: is told what cannot be said, one sentence each
    """
    archive, seals = result.archive, Seals(Path(result.user_data_dir))
    if archive is None or not policies.periods:
        return {}
    decided: dict[str, list[pd.Series[float]]] = {}
    for sealed in policies.periods:
        folder = archive.root / sealed.period.folder
        stale = why_not_that_version(folder, ("predictions",), seals)
        if stale is not None:
            missing.append(f"{sealed.pair}: the actions of {folder.parent.name} cannot be read: {stale}")
            continue
        frame = pd.read_feather(artefacts.sealed_path(folder, "predictions"))
        # Rows whose lookback is not whole decide nothing.
        decided.setdefault(sealed.pair, []).append(frame.loc[frame["do_predict"] == 1, ACTION_COLUMN])
    by_pair = {pair: pd.concat(parts) for pair, parts in decided.items()}
    shares: Shares = {}
    if len(by_pair) > 1:
        shares["all pairs, flat"] = _flat(pd.concat(by_pair.values()))
    asked = policies.questions
    if asked is not None and asked["pair"].nunique() > 1:
        shares["all pairs, in a trade"] = _in_a_trade(asked)
    for pair, actions in by_pair.items():
        shares[f"{pair}, flat"] = _flat(actions)
        if asked is not None and (asked["pair"] == pair).any():
            shares[f"{pair}, in a trade"] = _in_a_trade(asked[asked["pair"] == pair])
    return shares


def _flat(actions: pd.Series[float]) -> dict[str, float]:
    counted = actions.round().astype(int).map(lambda action: _NAMES[Action(action)]).value_counts(normalize=True)
    return {name: float(counted[name]) for name in _NAMES.values() if name in counted}


def _in_a_trade(asked: pd.DataFrame) -> dict[str, float]:
    sides = {"long": Action.LONG_EXIT, "short": Action.SHORT_EXIT}
    left = {_NAMES[of]: float((asked["leave"] & (asked["side"] == side)).mean()) for side, of in sides.items()}
    return {_HOLD: 1 - sum(left.values()), **left}
