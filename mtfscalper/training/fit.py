"""From settings to a model, and a model that learns."""

from __future__ import annotations

import hashlib
import io
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import HumanOutputFormat, Logger
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from mtfscalper.machine import compiles_on, precision_on
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.algorithms import algorithm_class
from mtfscalper.policy.network import (
    ACTIVATIONS,
    LookbackExtractor,
    MaskedActorCriticPolicy,
    features_extractor,
    prefer_holding,
)
from mtfscalper.policy.user_network import UserNetwork
from mtfscalper.settings import Settings
from mtfscalper.training.compiled import CompiledFunction
from mtfscalper.training.ppo import FusedPPO, loss_gradients

logger = logging.getLogger(__name__)


def network_arguments(settings: Settings, n_features: int, own: UserNetwork | None = None) -> dict[str, Any]:
    """What shapes the networks, as arguments of the policy.

    :param n_features: features of a candle
    :param own: what ``rl_config.network`` names
    :raises mtfscalper.user_code.UserCodeError: if that cannot be used
    """
    rl = settings.rl
    if rl.policy_type == "LinearPolicy":
        # ARS's, which has no layers.
        return {}
    net_arch: list[int] | dict[str, list[int]] = list(rl.net_arch)
    if rl.net_arch_value is not None:
        net_arch = {"pi": list(rl.net_arch), "vf": list(rl.net_arch_value)}
    arguments: dict[str, Any] = {"net_arch": net_arch, "activation_fn": ACTIVATIONS[rl.activation]}
    if rl.model_type != "PPO":
        return arguments
    gathered: dict[str, Any] = {"n_features": n_features, "lookback": settings.lookback}
    if own is not None:
        own.make(settings.lookback, n_features)
        gathered["network"] = own
    return arguments | {
        "features_extractor_class": LookbackExtractor,
        "features_extractor_kwargs": gathered,
        "precision": precision_on(rl.precision, get_device(rl.device)),
    }


def build_model(
    settings: Settings,
    tape: MarketTape,
    vec_env: VecEnv,
    network: dict[str, Any],
    initial_model: bytes | None,
    tensorboard_dir: Path | None,
) -> BaseAlgorithm:
    """A model that is ready to learn.

    :param network: of :func:`network_arguments`
    :param initial_model: zip of a model to go on from, where its network is the one set now
    """
    rl = settings.rl
    # SB3 draws the environments' seeds from this one: environment i starts with seed + i.
    common: dict[str, Any] = {"seed": rl.seed, "device": rl.device}
    common["tensorboard_log"] = str(tensorboard_dir) if tensorboard_dir is not None else None
    model = None if initial_model is None else _continued(initial_model, vec_env, settings, tape.pair, network)
    if model is not None:
        model.tensorboard_log = common["tensorboard_log"]
        # A zip brings the seed of its own training with it: environments, action draws and minibatches get today's.
        model.seed = rl.seed
        model.set_random_seed(rl.seed)
    elif rl.model_type == "PPO":
        model = FusedPPO(MaskedActorCriticPolicy, vec_env, policy_kwargs=network, **settings.ppo.model_dump(), **common)
        prefer_holding(model, rl.initial_exit_probability)
    else:
        arguments = settings.other_algorithm_kwargs | common
        model = algorithm_class(rl.model_type)(rl.policy_type, vec_env, policy_kwargs=network, **arguments)
    assert isinstance(model, BaseAlgorithm)
    if tensorboard_dir is None:
        # Its own logger would leave an empty folder among the machine's temporary files, at every training of a bot.
        model.set_logger(Logger(folder=None, output_formats=[HumanOutputFormat(sys.stdout)] if model.verbose else []))
    if rl.model_type == "PPO":
        features_extractor(model).set_features(tape.features)
    if isinstance(model, FusedPPO):
        compiles = compiles_on(rl.compile, model.device)
        if model.fused and compiles:
            model.loss_gradients = CompiledFunction(loss_gradients)
        elif not model.fused:
            logger.info(
                "%s: this network trains by stable-baselines3's own update, slower than that of ReLU layers alike for "
                "policy and value%s.",
                tape.pair,
                "; nothing is compiled" if compiles else "",
            )
    return model


def model_zip(model: BaseAlgorithm) -> bytes:
    """A model as stable-baselines3 saves it."""
    buffer = io.BytesIO()
    model.save(buffer)
    return buffer.getvalue()


def weights_hash(model: bytes) -> str:
    """A hash of what a model goes on from: its weights and its optimizer's state, whenever and wherever it was saved.

    :param model: its zip
    """
    _, parameters, variables = load_from_zip_file(io.BytesIO(model), device="cpu", load_data=False)
    hasher = hashlib.sha256()
    _add_to_hash(hasher, [parameters, variables])
    return hasher.hexdigest()[:16]


def _add_to_hash(hasher: hashlib._Hash, value: Any) -> None:
    if isinstance(value, Tensor):
        hasher.update(f"{value.dtype}{tuple(value.shape)}".encode())
        hasher.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            hasher.update(f"{name}:".encode())
            _add_to_hash(hasher, value[name])
    elif isinstance(value, list | tuple):
        hasher.update(f"{len(value)} of".encode())
        for item in value:
            _add_to_hash(hasher, item)
    else:
        hasher.update(f"{value!r};".encode())


def leave_out_training(model: BaseAlgorithm) -> None:
    """Take from a model what only its training needed, which stable-baselines3 leaves out of a saved one too."""
    for name in ("env", "rollout_buffer", "replay_buffer", "_logger"):
        if hasattr(model, name):
            setattr(model, name, None)


def learn(model: BaseAlgorithm, timesteps: int, callbacks: list[BaseCallback], board_name: str) -> None:
    """Let a model learn for at least so many timesteps; what a callback raises comes out.

    :param board_name: the folder of its files for TensorBoard, to which stable-baselines3 adds a number
    """
    # Continual learning starts a new count: its zip would otherwise believe that it has finished.
    model.learn(
        total_timesteps=timesteps, callback=CallbackList(callbacks), reset_num_timesteps=True, tb_log_name=board_name
    )


def _continued(
    initial_model: bytes, vec_env: VecEnv, settings: Settings, pair: str, network: dict[str, Any]
) -> BaseAlgorithm | None:
    """The model of a zip, to go on with; None if its network is not the one set now."""
    rl = settings.rl
    if rl.model_type != "PPO":
        loaded = algorithm_class(rl.model_type).load(io.BytesIO(initial_model), env=vec_env, device=rl.device)
        assert isinstance(loaded, BaseAlgorithm)
        return loaded
    data, _, _ = load_from_zip_file(io.BytesIO(initial_model), device="cpu")
    had = (data or {}).get("policy_kwargs", {})
    # A precision is how a machine computes, not what the network is: a model may go on with another.
    changed = [
        f"{name} was {had.get(name)} and is {wanted}"
        for name, wanted in network.items()
        if name != "precision" and had.get(name) != wanted
    ]
    if changed:
        logger.warning(
            "%s: the model to go on from has another network (%s); training starts anew.", pair, ", ".join(changed)
        )
        return None
    # A zip brings the settings of its own training with it.
    arguments = settings.ppo.model_dump()
    arguments["_stats_window_size"] = arguments.pop("stats_window_size")
    # A model from disk is plain PPO: its class is not in its zip.
    continued = FusedPPO.load(io.BytesIO(initial_model), env=vec_env, device=rl.device, **arguments)
    policy = continued.policy
    assert isinstance(policy, MaskedActorCriticPolicy)
    policy.precision = continued.policy_kwargs["precision"] = network["precision"]
    return continued
