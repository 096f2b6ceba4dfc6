"""How often a policy chose each action: on candles without a trade, and when it was asked about one."""

from __future__ import annotations

import pandas as pd

from mtfscalper.freqai.columns import ACTION_COLUMN
from mtfscalper.reporting.policies import RunPolicies
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


def action_shares(policies: RunPolicies, missing: list[str]) -> Shares:
    """Shares of the actions, by row and action; empty without a policy.

    :param missing: is told what cannot be said, one sentence each
    """
    by_pair = {}
    for pair, sealed in policies.columns.items():
        missing += [f"{pair}: the actions cannot be read of {lost}" for lost in sealed.missing]
        if len(sealed.frame):
            # Rows whose lookback is not whole decide nothing.
            by_pair[pair] = sealed.frame.loc[sealed.frame["do_predict"] == 1, ACTION_COLUMN]
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
