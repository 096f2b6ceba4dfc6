"""Which sampler a study should have: how good the setting is that each calls best, where values are noisy.

The truth is made up: eight parameters as the default search space has them, of which four matter, two together. A
trial's value is the truth with noise of as many of its standard deviations as the command asks for. Four workers ask
before any of them tells, as four workers do.

    python benchmarks/study_samplers.py --trials 50 --studies 40 --noise 1
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

WORKERS = 4
SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(5e-5, 2e-3, log=True),
    "ent_coef": FloatDistribution(1e-4, 5e-2, log=True),
    "initial_exit_probability": FloatDistribution(0.01, 0.3, log=True),
    "gae_lambda": FloatDistribution(0.8, 1.0, step=0.05),
    "n_epochs": IntDistribution(3, 15, step=3),
    "gamma": CategoricalDistribution([0.9, 0.95, 0.97, 0.98, 0.99, 0.995]),
    "net_arch": CategoricalDistribution(["64", "128", "256", "512"]),
    "exit_probability_min": FloatDistribution(0.4, 0.7, step=0.05),
}


def tpe(*, together: bool, liar: bool) -> Callable[[int], optuna.samplers.BaseSampler]:
    """
    :param together: whether parameters are drawn from one density of all of them
    :param liar: whether trials that run count as bad until they tell
    """
    return lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=together, constant_liar=liar)


SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": tpe(together=False, liar=True),
    "tpe, no liar": tpe(together=False, liar=False),
    "tpe, together": tpe(together=True, liar=True),
    "tpe, together, no liar": tpe(together=True, liar=False),
}


def truth(params: dict[str, object], best: dict[str, float]) -> float:
    """What a setting is worth: 1 at the best one."""
    rate = np.log10(float(str(params["learning_rate"]))) - best["rate"]
    leave = np.log10(float(str(params["initial_exit_probability"]))) - best["leave"]
    least = float(str(params["exit_probability_min"])) - best["least"] - 0.1 * leave
    gamma = abs([0.9, 0.95, 0.97, 0.98, 0.99, 0.995].index(float(str(params["gamma"]))) - best["gamma"])
    return float(np.exp(-((rate / 0.6) ** 2) - (leave / 0.7) ** 2 - (least / 0.15) ** 2) * 0.8**gamma)


def study(name: str, seed: int, trials: int, noise: float) -> tuple[float, float]:
    """Run one study.

    :return: what the setting is worth that it calls best, and the seconds that asking and telling took
    """
    random = np.random.default_rng(seed)
    best = {
        "rate": float(random.uniform(-4, -3)),
        "leave": float(random.uniform(-1.8, -0.7)),
        "least": float(random.uniform(0.45, 0.65)),
        "gamma": float(random.integers(0, 6)),
    }
    dice = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    spread = float(np.std([truth(dice.ask(SPACE).params, best) for _ in range(200)]))
    made = optuna.create_study(direction="maximize", sampler=SAMPLERS[name](seed))
    took = 0.0
    for at in range(0, trials, WORKERS):
        began = time.perf_counter()
        asked = [made.ask(SPACE) for _ in range(min(WORKERS, trials - at))]
        for trial in asked:
            made.tell(trial, truth(trial.params, best) + float(random.normal(0, noise * spread)))
        took += time.perf_counter() - began
    return truth(made.best_params, best), took


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--noise", type=float, default=1.0)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore")
    print(f"{args.studies} studies of {args.trials} trials, {WORKERS} at a time, noise {args.noise:g}")
    for name in SAMPLERS:
        found, took = zip(*(study(name, seed, args.trials, args.noise) for seed in range(args.studies)), strict=True)
        error = np.std(found) / np.sqrt(args.studies)
        seconds = sum(took) / args.studies / args.trials
        print(f"{name:24} {np.mean(found):.3f} ± {error:.3f} of the best, {1000 * seconds:6.1f} ms a trial", flush=True)


if __name__ == "__main__":
    main()
