"""One whole ``fit`` in a process of its own, for bench_training.py: freqtrade's learners, and this package's.

All train on the same candles and features, with the main configuration's hyper-parameters and as many timesteps, and
evaluate on the same held-out part. Prints its figures as one line of JSON.

    python benchmarks/training_contenders.py "batched bf16" --lookback 30
"""

import argparse
import json
import logging
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
import psutil
import torch
from freqtrade.freqai.prediction_models.ReinforcementLearner import ReinforcementLearner
from freqtrade.freqai.prediction_models.ReinforcementLearner_multiproc import ReinforcementLearner_multiproc
from main_config import PPO_ARGUMENTS
from main_job import N_TRAIN, PAIR, main_config, market, our_job

from mtfscalper.machine import set_torch_threads, usable_processors

# As many as the main configuration's cpu_count, which freqtrade cuts to the processors there are.
N_WORKERS = 8
# What each of this package's contenders changes in the main configuration's rl_config.
OURS: dict[str, dict[str, Any]] = {
    "subproc": {"vec_env": "subproc", "precision": "fp32"},
    "subproc bf16": {"vec_env": "subproc", "precision": "bf16"},
    "batched": {"vec_env": "batched", "n_envs": 64, "n_steps": 512, "precision": "fp32"},
    "batched bf16": {"vec_env": "batched", "n_envs": 64, "n_steps": 512, "precision": "bf16"},
    "batched bf16 compile": {
        "vec_env": "batched",
        "n_envs": 64,
        "n_steps": 512,
        "precision": "bf16",
        "compile": True,
    },
}


class Stock(NamedTuple):
    """One of freqtrade's learners.

    :ivar threads: torch's; None leaves freqtrade's choice, (2 x processors - 2) / 2: one on two processors
    :ivar workers: environments of the multiproc learner; None leaves freqtrade's choice, as many
    """

    learner: type[ReinforcementLearner]
    threads: int | None = None
    workers: int | None = None


STOCK = {
    "stock": Stock(ReinforcementLearner),
    "stock, all processors": Stock(ReinforcementLearner, usable_processors()),
    "stock multiproc": Stock(ReinforcementLearner_multiproc),
    "stock multiproc x 8": Stock(ReinforcementLearner_multiproc, usable_processors(), N_WORKERS),
}
CONTENDERS = (*STOCK, *OURS)


def ours(changes: dict[str, Any], lookback: int, n_features: int, cycles: int) -> Callable[[], dict[str, Any]]:
    """This package's training, ready to run."""
    job = our_job(changes, lookback, n_features, cycles)
    set_torch_threads(job.settings.rl.torch_threads, job.settings.rl.interop_threads)

    def train() -> dict[str, Any]:
        _, report = job.run()
        return {
            "timesteps": report.timesteps,
            "rollout_seconds": report.seconds_of("rollout"),
            "update_seconds": report.seconds_of("update"),
            "evaluation_seconds": sum(evaluation["seconds"] for evaluation in report.evaluations),
        }

    return train


def stock(contender: Stock, lookback: int, n_features: int, cycles: int, folder: Path) -> Callable[[], dict[str, Any]]:
    """freqtrade's training: its environments, its callbacks, its evaluation.

    :param folder: where it may write
    """
    config = main_config()
    config |= {"user_data_dir": folder, "datadir": folder, "runmode": "backtest", "exportdirectory": folder}
    rl = config["freqai"]["rl_config"]
    config["freqai"]["model_training_parameters"] = PPO_ARGUMENTS | {"seed": rl["seed"]}
    config["freqai"]["conv_width"] = lookback
    rl |= {"train_cycles": cycles, "add_state_info": False}
    learner = contender.learner(config=config)
    learner.can_short, learner.live, learner.data_provider = True, False, None
    if contender.threads is not None:
        torch.set_num_threads(contender.threads)
    if contender.workers is not None:
        learner.max_threads = contender.workers
    candles, features = market(n_features)
    frame = pd.DataFrame(features).rename(columns=str)
    prices = candles[["open", "high", "low", "close"]]
    data = {"train_features": frame.iloc[:N_TRAIN], "test_features": frame.iloc[N_TRAIN:].reset_index(drop=True)}
    learner.df_raw = data["train_features"]
    kitchen: Any = SimpleNamespace(pair=PAIR, data_path=folder, full_path=folder)

    def train() -> dict[str, Any]:
        held_out = prices.iloc[N_TRAIN:].reset_index(drop=True)
        learner.set_train_and_eval_environments(data, prices.iloc[:N_TRAIN], held_out, kitchen)
        try:
            model = learner.fit(data, kitchen)
        finally:
            learner.train_env.close()
            learner.eval_env.close()
        # The model that fit gives back is the best one; what was run is in the callback's.
        return {"timesteps": max(model.num_timesteps, learner.eval_callback.model.num_timesteps)}

    return train


@contextmanager
def workers_memory(peak: list[int]) -> Iterator[None]:
    """Keep the most memory that this process's descendants had to themselves, in bytes, while the block runs."""
    over = threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not over.wait(0.5):
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_full_info().uss
                except psutil.Error:
                    # Ended between the two calls.
                    continue
            peak[0] = max(peak[0], total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--lookback", type=int, default=1)
    parser.add_argument("--features", type=int, default=54)
    parser.add_argument("--cycles", type=int, default=4)
    parser.add_argument("--n-envs", type=int, help="environments of a contender of this package")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    shape = (options.lookback, options.features, options.cycles)
    scratch = tempfile.TemporaryDirectory()
    if options.contender in STOCK:
        train = stock(STOCK[options.contender], *shape, Path(scratch.name))
    else:
        changes = OURS[options.contender]
        if options.n_envs:
            # As many samples a rollout.
            changes = changes | {"n_envs": options.n_envs, "n_steps": 32768 // options.n_envs}
        train = ours(changes, *shape)
    imported = psutil.Process().memory_info().rss
    workers = [0]
    with open(os.devnull, "w") as quiet, workers_memory(workers):
        # freqtrade's evaluation prints a line for each.
        terminal, sys.stdout = sys.stdout, quiet
        started = time.perf_counter()
        figures = train()
        seconds = time.perf_counter() - started
        sys.stdout = terminal
    # Linux counts in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    figures |= {
        "seconds": seconds,
        "own_memory_bytes": peak - imported,
        "worker_memory_bytes": workers[0],
        "torch_threads": torch.get_num_threads(),
    }
    scratch.cleanup()
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
