"""What a backtest's policies are made from, as hashes by name: two that are alike were made from the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

import pandas as pd
from pandas import DataFrame

from mtfscalper import artefacts
from mtfscalper.freqai.strategy_rules import UserParts
from mtfscalper.freqai.trained_with import ONLY_SHOWN
from mtfscalper.settings import OUTSIDE_A_TRAINING, Settings
from mtfscalper.trading.trading_rules import TradingRules
from mtfscalper.user_code import class_sources_sha256


def run_fingerprint(
    code: str,
    settings: Settings,
    user: UserParts,
    rules: TradingRules,
    freqai: Mapping[str, Any],
    model: type,
) -> dict[str, str]:
    """What every policy of a backtest is made from, name to hash.

    Candles and dates are each period's own, and so is what the strategy computes: that is compared as values
    (:mod:`mtfscalper.freqai.computed_frame`), and none of the strategy's sources counts.

    :param code: hash of the package's code
    :param user: the user's own code
    :param freqai: the section ``freqai`` of the config
    :param model: the class of the FreqAI model, which the user may have given other hooks
    """
    # Whatever changes no bit of the policy: what is outside its training, how its decisions are asked for, how many
    # processes its environments share, and how long periods are, whose dates stand in each period's own fingerprint.
    shown: Any = {
        "rl": {*OUTSIDE_A_TRAINING, "decision_mode", "env_workers"},
        "tensorboard": True,
        "ppo": {"verbose"},
    }
    shown |= {"train_period_days": True, "backtest_period_days": True}
    reward = {"own reward's config": user.reward.parameters_sha256} if user.reward is not None else {}
    parameters = {name: value for name, value in freqai["feature_parameters"].items() if name not in ONLY_SHOWN}
    features = [parameters, freqai["data_split_parameters"]]
    return {
        "versions": artefacts.value_hash(artefacts.library_versions()),
        "code": code,
        "settings": artefacts.value_hash(settings.model_dump(exclude=shown)),
        "your own code": artefacts.value_hash(
            [(code.name, code.source_sha256, code.values_sha256) for code in user.codes]
        ),
        "rules": artefacts.value_hash(asdict(rules)),
        "features": artefacts.value_hash(features),
        "model class": class_sources_sha256(model),
        **reward,
    }


def frame_hash(frame: DataFrame) -> str:
    """A hash of all of a frame: its columns, its rows and their order, whatever the unit that dates are stored in."""
    if "date" in frame:
        frame = frame.assign(date=frame["date"].dt.as_unit("ms"))
    rows = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return artefacts.value_hash([[str(name) for name in frame.columns], hashlib.sha256(rows.tobytes()).hexdigest()])


def rows_hash(frames: list[DataFrame], start: datetime, stop: datetime) -> str:
    """A hash of the rows of [start, stop), whatever the unit that their dates are stored in."""
    hashes = []
    for frame in frames:
        rows = frame[(frame["date"] >= start) & (frame["date"] < stop)]
        rows = rows.assign(date=rows["date"].dt.as_unit("ms"))
        hashes.append([len(rows), int(pd.util.hash_pandas_object(rows, index=False).sum())])
    return artefacts.value_hash(hashes)
