"""PPO beside its rivals: rollouts and updates, their share of the machine's matrix products, decisions of a policy.

The rivals are stable-baselines3's PPO, with this package's policy and with its own, and SBX, the same in JAX. All go
through as many steps of the same environment with the same network. Rounds are interleaved, with matrix products
between them, so that a change of the machine's speed meets all. First of all one update is compared with that of
stable-baselines3, parameter by parameter: ends with 1 where they differ by more than rounding explains.

    python benchmarks/bench_ppo.py --json bench_ppo.json
"""

import argparse
import json
import sys
import tempfile
import timeit
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from comparison import Check
from freqtrade.freqai.RL.BaseReinforcementLearningModel import BaseReinforcementLearningModel
from gymnasium import spaces
from rich.console import Console
from rich.progress import track
from run_facts import facts
from sbx_ppo import (
    ARGUMENTS,
    N_EPOCHS,
    N_FEATURES,
    NET_ARCH,
    SAMPLES,
    SBX_ENVS,
    SBX_PYTHON,
    SBX_REMEDY,
    Contender,
    SbxProcess,
    env_settings,
    flops,
    make_tape,
)
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.ppo import MlpPolicy
from tables import table
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from mtfscalper.envs.build import build_vec_env
from mtfscalper.machine import has_bf16, set_torch_threads
from mtfscalper.market.tape import MarketTape
from mtfscalper.monitoring.ppo_rounds import Seconds, collector, rounds_of
from mtfscalper.monitoring.roofline import Roofline
from mtfscalper.policy.closed_loop import flat_decisions
from mtfscalper.policy.inference import PolicyDecider
from mtfscalper.policy.network import LookbackExtractor, MaskedActorCriticPolicy, features_extractor
from mtfscalper.trading.actions import N_ACTIONS
from mtfscalper.training.compiled import CompiledFunction
from mtfscalper.training.ppo import FusedPPO, loss_gradients

NETWORK: dict[str, Any] = {"net_arch": NET_ARCH, "activation_fn": torch.nn.ReLU}
SB3 = "stable-baselines3 PPO"
SBX = "SBX (JAX)"
FREQTRADE_ROWS = 1000
DECISION_ROUNDS = 7
# By how much more than stable-baselines3 rounded otherwise our parameters may be off; another computation is off by
# about as much as it moves.
ROUNDINGS = 2.0

TRAINING_COLUMNS = {
    "rollout_seconds": ("rollout", "{:.2f} s"),
    "update_seconds": ("update", "{:.2f} s"),
    "samples_per_second": ("samples/s", "{:,.0f}"),
    "x_stable_baselines3": ("x SB3", "{:.2f}"),
    "x_sbx": ("x SBX", "{:.2f}"),
    "share_of_peak": ("of peak", "{:.0%}"),
}
PRODUCT_COLUMNS = {name: (name, "{:.0f}") for name in ("float32", "bfloat16")}
EQUALITY_COLUMNS = {
    "largest_movement": ("moved", "{:.1e}"),
    "largest_difference": ("apart", "{:.1e}"),
    "norm_of_difference_over_movement": ("norms", "{:.1e}"),
    "largest_relative_difference": ("relative", "{:.1e}"),
    "share_allclose": ("allclose", "{:.3%}"),
}
DECISION_COLUMNS = {
    "freqtrade_us": ("freqtrade", "{:.1f} us"),
    "own_us": ("ours", "{:.1f} us"),
    "x_freqtrade": ("x", "{:.1f}"),
    "own_gflops": ("GFLOP/s", "{:.0f}"),
    "peak_gflops": ("peak", "{:.0f}"),
    "share_of_peak": ("of peak", "{:.0%}"),
}


def masked_model(algorithm: type[PPO], tape: MarketTape, lookback: int, n_envs: int, precision: str = "fp32") -> PPO:
    """PPO with this package's policy, on compact observations."""
    network = NETWORK | {
        "features_extractor_class": LookbackExtractor,
        "features_extractor_kwargs": {"n_features": N_FEATURES, "lookback": lookback},
        "precision": precision,
    }
    vec_env = build_vec_env("batched", tape, env_settings(lookback), n_envs)
    made = algorithm(MaskedActorCriticPolicy, vec_env, n_steps=SAMPLES // n_envs, policy_kwargs=network, **ARGUMENTS)
    features_extractor(made).set_features(tape.features)
    return made


def torch_contenders(tape: MarketTape, lookback: int) -> dict[str, Contender]:
    """Whoever trains in this process."""
    vec_env = build_vec_env("batched", tape, env_settings(lookback), 8, compact=False)
    plain = PPO("MlpPolicy", vec_env, n_steps=SAMPLES // 8, policy_kwargs=NETWORK, **ARGUMENTS)
    contenders = {
        f"{SB3} 8 x 1024": Contender(rounds_of(masked_model(PPO, tape, lookback, 8))),
        f"{SB3} 64 x 128": Contender(rounds_of(masked_model(PPO, tape, lookback, 64))),
        f"{SB3}, MlpPolicy 8 x 1024": Contender(rounds_of(plain)),
        "FusedPPO fp32 8 x 1024": Contender(rounds_of(masked_model(FusedPPO, tape, lookback, 8))),
        "FusedPPO fp32 64 x 128": Contender(rounds_of(masked_model(FusedPPO, tape, lookback, 64))),
    }
    if has_bf16(torch.device("cpu")):
        rounding, compiled = (masked_model(FusedPPO, tape, lookback, 64, "bf16") for _ in range(2))
        compiled.loss_gradients = CompiledFunction(loss_gradients)
        contenders["FusedPPO bf16 64 x 128"] = Contender(rounds_of(rounding), torch.bfloat16)
        contenders["FusedPPO bf16 compiled 64 x 128"] = Contender(rounds_of(compiled), torch.bfloat16)
    return contenders


def training(tape: MarketTape, lookback: int, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of every contender's rollouts and updates, and the rates of matrix products between them."""
    contenders = torch_contenders(tape, lookback)
    roofline = Roofline({contender.dtype: None for contender in contenders.values()})
    measured: dict[str, Any] = {}
    sbx = SbxProcess(options.sbx_python, lookback) if options.sbx_python else None
    try:
        if sbx:
            measured["sbx_versions"] = sbx.versions()
            for n_envs in SBX_ENVS:
                contenders[f"{SBX} {n_envs} x {SAMPLES // n_envs}"] = Contender(partial(sbx.run, n_envs))
        for contender in contenders.values():
            contender.run()
        rounds: dict[str, list[Seconds]] = {name: [] for name in contenders}
        for _ in track(range(options.rounds), f"training, lookback {lookback}", console=Console(stderr=True)):
            roofline.measure()
            for name, contender in contenders.items():
                rounds[name].append(contender.run())
    finally:
        if sbx:
            sbx.close()
    peaks = {name: roofline.peak(contender.dtype) for name, contender in contenders.items()}
    figures = training_figures(rounds, peaks, flops(lookback)[0])
    return measured | {"figures": figures, "rounds": rounds, "matrix_products_gflops": roofline.medians()}


def training_figures(
    rounds: dict[str, list[Seconds]], peaks: dict[str, float], flops_of_sample: int
) -> dict[str, dict[str, float | None]]:
    """Medians by contender.

    :param peaks: rate of matrix products that each contender is measured against
    :param flops_of_sample: in one epoch
    """
    rates = {name: float(np.median([SAMPLES / sum(seconds) for seconds in own])) for name, own in rounds.items()}
    # Each rival with the number of environments that suits it best.
    fastest_sb3, fastest_sbx = (
        max((rate for name, rate in rates.items() if name.startswith(rival)), default=None) for rival in (SB3, SBX)
    )
    figures = {}
    for name, own in rounds.items():
        rollout, update = np.median(own, axis=0).tolist()
        update_gflops = 1e-9 * SAMPLES * N_EPOCHS * flops_of_sample / update
        figures[name] = {
            "rollout_seconds": rollout,
            "update_seconds": update,
            "samples_per_second": rates[name],
            "x_stable_baselines3": rates[name] / fastest_sb3 if fastest_sb3 else None,
            "x_sbx": rates[name] / fastest_sbx if fastest_sbx else None,
            "update_gflops": update_gflops,
            "share_of_peak": update_gflops / peaks[name],
        }
    return figures


def equality(tape: MarketTape, lookback: int) -> dict[str, dict[str, float]]:
    """How far parameters are from those of stable-baselines3 after one update from the same rollout.

    Near zero the last bit decides whether ReLU passes a value on, so that rounding grows. By how much shows
    stable-baselines3 beside itself, when each parameter starts off by its last bit, and with one thread.
    """
    theirs, ours, again, alone = (masked_model(kind, tape, lookback, 8) for kind in (PPO, FusedPPO, PPO, PPO))
    collector(theirs)()
    rollout = theirs.rollout_buffer
    start = parameters_to_vector(theirs.policy.parameters()).detach()
    off = start * (1 + 2**-23 * torch.randn(start.shape, generator=torch.Generator().manual_seed(1)).sign())
    after, threads = [], torch.get_num_threads()
    for model, first in ((theirs, start), (ours, start), (again, off), (alone, start)):
        torch.set_num_threads(1 if model is alone else threads)
        vector_to_parameters(first.clone(), model.policy.parameters())
        model.set_logger(Logger(None, []))
        give(model, rollout)
        np.random.seed(5)
        model.train()
        after.append(parameters_to_vector(model.policy.parameters()).detach())
    torch.set_num_threads(threads)
    return {
        f"FusedPPO fp32, lookback {lookback}": distances(start, after[0], after[1]),
        f"SB3, last bits off, lookback {lookback}": distances(start, after[0], after[2]),
        f"SB3, one thread, lookback {lookback}": distances(start, after[0], after[3]),
    }


def equality_check(measured: dict[str, dict[str, float]]) -> Check:
    """Whether rounding alone explains how far FusedPPO's parameters are from stable-baselines3's.

    :param measured: what :func:`equality` gives of one lookback
    """
    apart = {name: one["norm_of_difference_over_movement"] for name, one in measured.items()}
    ours = next(name for name in apart if name.startswith("FusedPPO"))
    by_rounding = max(value for name, value in apart.items() if name != ours)
    compared = f"stable-baselines3 beside itself, rounded otherwise: {by_rounding:.2g}"
    return Check(f"{ours}: distance over movement", apart[ours], ROUNDINGS * by_rounding, compared)


def give(model: PPO, buffer: RolloutBuffer) -> None:
    """Put a rollout of stable-baselines3's into a model."""
    if not isinstance(model, FusedPPO):
        model.rollout_buffer = deepcopy(buffer)
        return
    for name, column in model.rollout_buffer._asdict().items():
        column.copy_(torch.from_numpy(getattr(buffer, name)).view_as(column))


def distances(start: Tensor, after: Tensor, other: Tensor) -> dict[str, float]:
    """How far parameters have moved, and how far others are from them."""
    moved, apart = after - start, (other - after).abs()
    return {
        "largest_movement": float(moved.abs().max()),
        "largest_difference": float(apart.max()),
        "norm_of_difference_over_movement": float(apart.norm() / moved.norm()),
        "largest_relative_difference": float((apart / after.abs().clamp(min=1e-3)).max()),
        "share_allclose": float((apart <= 1e-8 + 1e-5 * after.abs()).double().mean()),
    }


def freqtrade_decisions(tape: MarketTape, lookback: int) -> Callable[[], Any]:
    """Freqtrade's own loop over rows, with stable-baselines3's policy on lookbacks of features."""
    space = spaces.Box(-1e6, 1e6, (lookback, N_FEATURES), dtype=np.float32)
    # A model's predict calls nothing but its policy's.
    policy = MlpPolicy(space, spaces.Discrete(N_ACTIONS), lambda _: 3e-4, **NETWORK)
    features = pd.DataFrame(tape.features[:FREQTRADE_ROWS])
    asked = SimpleNamespace(live=False, rl_config={}, CONV_WIDTH=lookback)
    kitchen = SimpleNamespace(pair=tape.pair, label_list=["&-action"])
    return partial(BaseReinforcementLearningModel.rl_model_predict, asked, features, kitchen, policy)


def own_decisions(tape: MarketTape, lookback: int) -> Callable[[], Any]:
    """This package's decisions for every candle of a tape."""
    decider = PolicyDecider(masked_model(FusedPPO, tape, lookback, 1).policy, tape.features)
    return partial(flat_decisions, decider, tape, env_settings(lookback), np.arange(len(tape)))


def decisions(tape: MarketTape, lookback: int) -> dict[str, float]:
    """Microseconds a row, and the rate of matrix products that comes to."""
    roofline = Roofline([torch.float32])
    ways = [freqtrade_decisions(tape, lookback), own_decisions(tape, lookback)]
    # Freqtrade decides from the first whole lookback on.
    n_rows = np.array([FREQTRADE_ROWS - lookback + 1, len(tape)])
    seconds = []
    for _ in range(1 + DECISION_ROUNDS):
        roofline.measure()
        seconds.append([timeit.timeit(way, number=1) for way in ways])
    # The first round warms up.
    freqtrade, own = (np.median(seconds[1:], axis=0) / n_rows).tolist()
    rate, peak = 1e-9 * flops(lookback)[1] / own, roofline.peak(torch.float32)
    figures = {"freqtrade_us": 1e6 * freqtrade, "own_us": 1e6 * own, "x_freqtrade": freqtrade / own}
    return figures | {"own_gflops": rate, "peak_gflops": peak, "share_of_peak": rate / peak}


def show(facts: dict[str, Any], console: Console) -> None:
    """Everything measured, as tables."""
    for lookback, measured in facts["training"].items():
        title = f"PPO, lookback {lookback}: {SAMPLES:,} samples and {N_EPOCHS} epochs a round"
        console.print(table(title, TRAINING_COLUMNS, measured["figures"]))
        console.print(table("matrix products meanwhile, GFLOP/s", PRODUCT_COLUMNS, measured["matrix_products_gflops"]))
    apart = {name: one for by_name in facts["equality"].values() for name, one in by_name.items()}
    console.print(table("parameters after an update, beside stable-baselines3's", EQUALITY_COLUMNS, apart))
    rows = {f"lookback {lookback}": one for lookback, one in facts["decisions"].items()}
    console.print(table("decisions, one row", DECISION_COLUMNS, rows))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds of training (default 3)")
    parser.add_argument("--lookbacks", type=int, nargs="+", default=[1, 30], help="candles seen (default 1 30)")
    python = SBX_PYTHON if SBX_PYTHON.exists() else None
    parser.add_argument("--sbx-python", type=Path, default=python, help=f"an interpreter with SBX (default {python})")
    default = Path(tempfile.gettempdir(), "bench_ppo.json")
    parser.add_argument("--json", type=Path, default=default, help="where the figures go (default %(default)s)")
    options = parser.parse_args(argv)
    if options.sbx_python is None:
        print(SBX_REMEDY)
    if not has_bf16(torch.device("cpu")):
        print("bf16 is left out: this processor has no instructions for it.")
    threads = set_torch_threads(8, 2)
    tape = make_tape()
    measured = facts() | {
        "versions": {name: version(name) for name in ("stable-baselines3", "freqtrade", "numpy")},
        "torch_threads": threads._asdict(),
        "equality": {lookback: equality(tape, lookback) for lookback in options.lookbacks},
        "training": {lookback: training(tape, lookback, options) for lookback in options.lookbacks},
        "decisions": {lookback: decisions(tape, lookback) for lookback in options.lookbacks},
    }
    show(measured, Console())
    options.json.write_text(json.dumps(measured, indent=1))
    print(f"figures: {options.json}")
    checks = [equality_check(one) for one in measured["equality"].values()]
    for check in checks:
        verdict = "equal but for rounding" if check.passes else "NOT EQUAL"
        print(f"{check.name}: {check.seen:.2g}, at most {check.tolerance:.2g} ({check.compared}): {verdict}")
    return int(not all(check.passes for check in checks))


if __name__ == "__main__":
    sys.exit(main())
