"""The task that bench_ppo.py sets to everyone who trains, and SBX (JAX), which does it in a process of its own.

SBX has its own interpreter, so that JAX does not become a dependency. The process stays alive between rounds. Its first
line gives versions, once everything is compiled; then each line it reads names a number of environments and asks for
one rollout and one update, and the answer is a line of JSON, the seconds of the two.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from env_contenders import RULES
from main_config import PPO_ARGUMENTS, RL_CONFIG, ROOT
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from step_market import N_CANDLES, PAIR, market

from mtfscalper.envs.build import build_vec_env
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.machine import set_torch_threads
from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL
from mtfscalper.market.tape import MarketTape, price_scale
from mtfscalper.monitoring.ppo_rounds import Seconds, rounds_of
from mtfscalper.monitoring.ppo_rounds import flops as network_flops
from mtfscalper.trading.observation import N_ACCOUNT
from mtfscalper.trading.reward import RewardSettings

N_FEATURES = 54
SIGNAL_DENSITY = 0.15
NET_ARCH: list[int] = RL_CONFIG["net_arch"]
# Steps of a rollout, all environments together.
SAMPLES = 8192
N_EPOCHS: int = RL_CONFIG["n_epochs"]
# Without the length of a rollout, in which contenders differ.
ARGUMENTS: dict[str, Any] = {name: value for name, value in PPO_ARGUMENTS.items() if name != "n_steps"}
ARGUMENTS |= {"seed": 3, "device": "cpu"}
SBX_ENVS = (8, 64)
SBX_PYTHON = ROOT / ".venv-sbx" / "bin" / "python"
SBX_REMEDY = f"""SBX is left out: no {SBX_PYTHON}. To make it, in {ROOT}:
  python3 -m venv .venv-sbx
  echo {sysconfig.get_path("purelib")} > $(echo .venv-sbx/lib/python*/site-packages)/shared.pth
  .venv-sbx/bin/python -m pip install sbx-rl"""


class Contender(NamedTuple):
    """One way to train.

    :ivar run: one rollout and one update
    :ivar dtype: what the hidden layers compute in
    """

    run: Callable[[], Seconds]
    dtype: torch.dtype = torch.float32


def make_tape() -> MarketTape:
    """The synthetic market with random signals and random features."""
    candles, _ = market()
    random = np.random.default_rng(1)
    signals = {name: random.random(N_CANDLES) < SIGNAL_DENSITY for name in (LONG_SIGNAL, SHORT_SIGNAL)}
    features = random.normal(size=(N_CANDLES, N_FEATURES)).astype(np.float32)
    frame = candles.assign(**signals)
    frame["price_scale"] = price_scale(frame, 1.0)
    return MarketTape.from_frame(frame, features, pair=PAIR, timeframe_ms=300_000, signals_needed=True)


def env_settings(lookback: int) -> EnvSettings:
    return EnvSettings(RULES, RewardSettings(), "gated", lookback)


def flops(lookback: int) -> tuple[int, int]:
    """:func:`mtfscalper.monitoring.ppo_rounds.flops` of the networks here."""
    return network_flops(N_FEATURES * lookback + N_ACCOUNT, NET_ARCH)


class SbxProcess:
    """This file, running in an interpreter that has SBX."""

    def __init__(self, python: Path, lookback: int) -> None:
        command = [str(python), __file__, str(lookback)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=environment, **pipes)

    def versions(self) -> dict[str, str]:
        """Wait until it is ready."""
        return self._answer()

    def run(self, n_envs: int) -> Seconds:
        """One rollout and one update with so many environments."""
        self._process.stdin.write(f"{n_envs}\n")
        self._process.stdin.flush()
        return Seconds(**self._answer())

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"SBX's process ended with exit status {self._process.wait()}; its message stands above")
        return json.loads(line)


def sbx_model(tape: MarketTape, settings: EnvSettings, n_envs: int) -> OnPolicyAlgorithm:
    """SBX's PPO on lookback observations."""
    # This project's own environment has neither.
    import sbx
    from flax.linen import relu

    vec_env = build_vec_env("batched", tape, settings, n_envs, compact=False)
    network = {"net_arch": NET_ARCH, "activation_fn": relu}
    made = sbx.PPO("MlpPolicy", vec_env, n_steps=SAMPLES // n_envs, policy_kwargs=network, **ARGUMENTS)
    # Compiled when the first episode ends, which may be in a round that is timed.
    made.vf.apply(made.policy.vf_state.params, vec_env.reset()[:1])
    return made


def main(argv: list[str] | None = None) -> int:
    """SBX's side of :class:`SbxProcess`."""
    import flax
    import jax
    import sbx

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lookback", type=int, help="candles in an observation")
    settings = env_settings(parser.parse_args(argv).lookback)
    set_torch_threads(8, 2)
    tape = make_tape()
    rounds = {n_envs: rounds_of(sbx_model(tape, settings, n_envs)) for n_envs in SBX_ENVS}
    for run in rounds.values():
        # Twice: the states that an update returns have other JAX types than the first ones, and compile again.
        run()
        run()
    print(json.dumps({"sbx-rl": sbx.__version__, "jax": jax.__version__, "flax": flax.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(rounds[int(line)]()._asdict()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
