"""One model out of several that were trained alike, and back: how an ensemble is saved, and learns on."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.policies import BasePolicy

from mtfscalper.policy.ensemble import N_MEMBERS, EnsemblePolicy, members_of
from mtfscalper.policy.network import MaskedActorCriticPolicy


def n_members_of_zip(model: bytes) -> int:
    """How many members a saved model has, 1 if it is no ensemble."""
    with zipfile.ZipFile(BytesIO(model)) as archive:
        return int(json.loads(archive.read("data"))["policy_kwargs"].get(N_MEMBERS, 1))


def join_models(models: Sequence[PPO]) -> PPO:
    """One model that decides as the mean of several.

    :param models: trained alike from different seeds, of a :class:`mtfscalper.policy.network.MaskedActorCriticPolicy`
        each
    :return: with copies of their parameters and of their optimizers' state; of one model, the model itself
    """
    first = models[0]
    if len(models) == 1:
        return first
    arguments = {name: value for name, value in first.policy_kwargs.items() if name != "precision"}
    joined = _model_like(first, EnsemblePolicy, arguments | {N_MEMBERS: len(models)})
    # Each member's own, to take the ensemble apart by. stable-baselines3 saves it with the rest.
    joined.member_seeds = [model.seed for model in models]  # type: ignore[attr-defined]
    for member, model in zip(joined.policy.members, models, strict=True):  # type: ignore[arg-type]
        member.load_state_dict(model.policy.state_dict())
    joined.policy.optimizer.load_state_dict(_joined([model.policy.optimizer.state_dict() for model in models]))
    return joined


def split_model(model: PPO) -> list[PPO]:
    """The members of a joined model, each a model that can learn on; of a model that is no ensemble, itself."""
    policy = model.policy
    if not isinstance(policy, EnsemblePolicy):
        return [model]
    arguments = {name: value for name, value in model.policy_kwargs.items() if name != N_MEMBERS}
    optimizers = _parted(policy.optimizer.state_dict())
    seeds: Sequence[int | None] = model.member_seeds  # type: ignore[attr-defined]
    models = []
    for member, optimizer, seed in zip(members_of(policy), optimizers, seeds, strict=True):
        part = _model_like(model, MaskedActorCriticPolicy, dict(arguments))
        part.seed = seed
        part.policy.load_state_dict(member.state_dict())
        part.policy.optimizer.load_state_dict(optimizer)
        models.append(part)
    return models


def _model_like(model: PPO, policy_class: type[BasePolicy], policy_kwargs: dict[str, Any]) -> PPO:
    """A model with all that another is saved with, but for the policy: made as ``PPO.load`` makes one."""
    left_out = {*model._excluded_save_params(), "policy_class", "policy_kwargs"}
    made = PPO(policy_class, None, device=model.device, _init_setup_model=False)  # type: ignore[arg-type]
    vars(made).update({name: value for name, value in vars(model).items() if name not in left_out})
    made.policy_kwargs = policy_kwargs
    # With its seed it would seed this whole process anew.
    made.seed, seed = None, made.seed
    made._setup_model()
    made.seed = seed
    return made


def _joined(optimizers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state of an optimizer that has each member's parameters as a group, from those of the members.

    :param optimizers: ``state_dict()`` of each, with one group
    """
    state: dict[int, Any] = {}
    groups: list[dict[str, Any]] = []
    for optimizer in optimizers:
        [group] = optimizer["param_groups"]
        first = sum(len(one["params"]) for one in groups)
        state |= {first + number: value for number, value in optimizer["state"].items()}
        groups.append({**group, "params": [first + number for number in group["params"]]})
    return {"state": state, "param_groups": groups}


def _parted(optimizer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The states that :func:`_joined` joined."""
    return [
        {
            "state": {
                position: optimizer["state"][number]
                for position, number in enumerate(group["params"])
                if number in optimizer["state"]
            },
            "param_groups": [{**group, "params": list(range(len(group["params"])))}],
        }
        for group in optimizer["param_groups"]
    ]
