"""Folds that cannot be, because other settings stand against them: one message for each."""

from __future__ import annotations

import json
from typing import Protocol

from mtfscalper.market.folds import FoldPlan


class _RL(Protocol):
    """What is read of ``freqai.rl_config``."""

    @property
    def evaluation_folds(self) -> int | None: ...
    @property
    def evaluation_mode(self) -> str: ...
    @property
    def fallback(self) -> str | None: ...


class _Freqai(Protocol):
    """What is read of FreqAI's own keys."""

    @property
    def test_size(self) -> float: ...
    @property
    def train_size(self) -> float | None: ...
    @property
    def continual_learning(self) -> bool: ...


def impossible_folds(rl: _RL, freqai: _Freqai, is_reversed: bool) -> list[str]:
    """What stands in the way of the folds that the settings ask for.

    :param is_reversed: whether ``feature_parameters.reverse_train_test_order`` is set
    """
    complaints = []
    plan = FoldPlan(freqai.test_size, rl.evaluation_folds, rl.fallback is not None, 0)
    if rl.evaluation_mode == "lower" and plan.n_choosing < 2:
        needed, judges = (2, "") if rl.fallback is None else (4, ", half of which judge")
        complaints.append(
            "freqai.rl_config.evaluation_mode is 'lower' and freqai.rl_config.evaluation_folds is "
            f"{json.dumps(rl.evaluation_folds)}; accepted: evaluation_folds of at least {needed}{judges}, for one "
            "stretch shows no spread; remedy: raise it, or set evaluation_mode to 'mean'"
        )
    keys = [name for name in ("evaluation_folds", "fallback") if getattr(rl, name) is not None]
    if not keys:
        return complaints
    what = " and ".join(f"freqai.rl_config.{name} is {getattr(rl, name)!r}" for name in keys)
    instead = f"or remove {' and '.join(keys)}"
    if freqai.test_size == 0:
        complaints.append(
            f"{what}, and freqai.data_split_parameters.test_size is 0; accepted: more than 0, the share of the "
            f"training period that is held out; remedy: raise test_size, {instead}"
        )
    if freqai.continual_learning:
        complaints.append(
            f"{what}, and freqai.continual_learning is true; accepted: false, for the model that training goes on "
            f"from has learned from the candles that are held out; remedy: set it to false, {instead}"
        )
    if freqai.train_size is not None:
        complaints.append(
            f"{what}, and freqai.data_split_parameters.train_size is {freqai.train_size}; accepted: null, for all that "
            f"is neither held out nor of an embargo is trained on; remedy: remove train_size, {instead}"
        )
    if is_reversed:
        complaints.append(
            f"{what}, and freqai.feature_parameters.reverse_train_test_order is true; accepted: false, for folds have "
            f"places of their own; remedy: remove reverse_train_test_order, {instead}"
        )
    return complaints
