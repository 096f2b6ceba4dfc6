"""Trials an hour of a study: one at a time, several at once, and freqtrade's own learner in a loop of Optuna's.

Every contender searches the learning rate alone, with two trainings a trial on the same candles, over the same samples
but for a part of a rollout; only freqtrade's learners have one environment, or as many as processors.

    python benchmarks/bench_study.py --trials 6 --json bench_study.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
from main_config import MAIN_CONFIG, PPO_ARGUMENTS, ROOT
from rich.console import Console
from run_facts import facts
from tables import table

from mtfscalper.machine import usable_processors
from mtfscalper.monitoring.study_state import busy_seconds
from mtfscalper.offline import SYNTHETIC_DATADIR
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import MAIN_CONFIG as MAIN_CONFIG_PATH
from mtfscalper.offline.freqtrade_command import STRATEGY, freqtrade_command, write_overlay
from mtfscalper.offline.synthetic import write_market
from mtfscalper.search.looking import open_to_look, study_of
from mtfscalper.search.study_folder import StudyFolder
from mtfscalper.search.trial_attributes import RUN_SECONDS, TIMESTEPS

# Ten days are traded by trials, the last seven are locked.
VALIDATION, LOCKED_DAYS = "20241001-20241011", 7
TIMERANGE = "20241001-20241018"
PAIR = MAIN_CONFIG["exchange"]["pair_whitelist"][0]
# With more steps, twelve environments would collect more in one rollout than freqtrade's learner is asked for in all.
N_ENVS, N_STEPS = 12, 512
NAME = "bench"
SPACE = {"learning_rate": {"type": "float", "low": 5e-5, "high": 2e-3, "log": True}}
STOCK = {"stock": "ReinforcementLearner", "stock multiproc": "ReinforcementLearner_multiproc"}


def study(home: Path, exchange: str, options: argparse.Namespace, workers: int) -> dict[str, Any]:
    """Run ``mtfscalper study run``, and read what its trials took."""
    own = {"freqai": budget(options.cycles) | {"identifier": NAME}}
    own["freqai"]["rl_config"] |= {"search_space": SPACE, "vec_env": "batched"}
    overlay = write_overlay(home / "overlay.json", exchange, own)
    backtesting = freqtrade_command(
        "backtesting",
        [MAIN_CONFIG_PATH, *options.config, overlay],
        timerange=TIMERANGE,
        pairs=[PAIR],
        strategy=STRATEGY,
        freqaimodel="MtfScalperRLModel",
        datadir=SYNTHETIC_DATADIR,
        userdir=home,
    )
    command = [sys.executable, "-m", "mtfscalper.cli", "study", "run", "--study", NAME, "--seeds", "1"]
    command += ["--trials", str(options.trials), "--workers", str(workers), "--n-envs", str(N_ENVS)]
    # Its arguments, without the program and its subcommand, and without the cache that a study has none of.
    command += ["--holdout-days", str(LOCKED_DAYS), *backtesting[4:-2]]
    seconds = timed(command)
    folder = StudyFolder.of(home, NAME)
    trials = [
        trial
        for trial in study_of(open_to_look(folder, None), NAME).get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "PRUNED")
    ]
    spans = [(trial.datetime_start.timestamp(), trial.datetime_complete.timestamp()) for trial in trials]
    return {
        "seconds": seconds,
        "trials": len(trials),
        "timesteps": sum(trial.user_attrs[TIMESTEPS] for trial in trials),
        "span_seconds": busy_seconds(spans),
        "run_seconds": sum(trial.user_attrs[RUN_SECONDS] for trial in trials),
    }


def stock(home: Path, exchange: str, options: argparse.Namespace, model: str) -> dict[str, Any]:
    """Run ``stock_study.py``."""
    freqai = budget(options.cycles)
    freqai |= {"model_training_parameters": PPO_ARGUMENTS | {"n_steps": N_STEPS}, "identifier": "stock"}
    # What freqtrade's learner does not have, and needs.
    freqai["rl_config"] |= {"decision_mode": "replay", "add_state_info": False, "cpu_count": usable_processors()}
    sections = {"strategy_path": "benchmarks/stock_strategy", "freqai": freqai}
    command = freqtrade_command(
        "backtesting",
        [MAIN_CONFIG_PATH, write_overlay(home / "overlay.json", exchange, sections)],
        timerange=VALIDATION,
        pairs=[PAIR],
        strategy="StockHybrid",
        freqaimodel=model,
        datadir=SYNTHETIC_DATADIR,
        userdir=home,
    )
    (home / "backtest_results").mkdir()
    script = str(ROOT / "benchmarks" / "stock_study.py")
    seconds = timed([sys.executable, script, str(options.trials), str(home / "searched.json"), *command])
    return {"seconds": seconds, "trials": options.trials}


def budget(cycles: int) -> dict[str, Any]:
    """What every contender trains."""
    return {
        "train_period_days": 20,
        "backtest_period_days": 5,
        "activate_tensorboard": False,
        "rl_config": {"train_cycles": cycles, "progress_bar": False, "n_steps": N_STEPS},
    }


def timed(command: list[str]) -> float:
    """Run a command, and time it."""
    started = time.perf_counter()
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "COLUMNS": "150"})
    if ran.returncode:
        raise RuntimeError(f"{command} failed:\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}")
    return time.perf_counter() - started


def run(name: str, exchange: str, options: argparse.Namespace) -> dict[str, Any]:
    """One contender, from nothing."""
    with tempfile.TemporaryDirectory() as home:
        if name in STOCK:
            return stock(Path(home), exchange, options, STOCK[name])
        return study(Path(home), exchange, options, 1 if name == "one at a time" else options.workers)


def row(runs: list[dict[str, Any]]) -> dict[str, float | None]:
    """Medians over rounds."""

    def median(of: Any) -> float | None:
        values = [of(one) for one in runs if "span_seconds" in one]
        return statistics.median(values) if values else None

    return {
        "hour": statistics.median(3600 * one["trials"] / one["seconds"] for one in runs),
        "busy": median(lambda one: 3600 * one["trials"] / one["span_seconds"]),
        "samples": median(lambda one: one["timesteps"] / one["span_seconds"]),
        "own": median(lambda one: (one["span_seconds"] - one["run_seconds"]) / one["trials"]),
        "share": median(lambda one: 100 * (1 - one["run_seconds"] / one["span_seconds"])),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=6, help="of each contender (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="default %(default)s")
    parser.add_argument("--cycles", type=int, default=10, help="train_cycles (default %(default)s)")
    parser.add_argument("--workers", type=int, default=usable_processors(), help="at once (default %(default)s)")
    parser.add_argument("--config", type=Path, action="append", default=[], help="further ones of this package's runs")
    names = ("one at a time", "at once", *STOCK)
    parser.add_argument("--contenders", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--json", type=Path, default=Path(tempfile.gettempdir(), "bench_study.json"))
    options = parser.parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    write_market(ROOT / SYNTHETIC_DATADIR)
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in options.contenders}
    with ReplayExchange(ROOT / SYNTHETIC_DATADIR, 0) as exchange:
        for _ in range(options.rounds):
            for name in options.contenders:
                measured[name].append(run(name, exchange.url, options))
                print(f"{name}: {measured[name][-1]}", flush=True)
                asked = {key: str(value) for key, value in vars(options).items()}
                options.json.write_text(json.dumps(facts() | {"asked": asked, "runs": measured}, indent=1))
    columns = {
        "hour": ("trials/h, all counted", "{:.1f}"),
        "busy": ("trials/h while any ran", "{:.1f}"),
        "samples": ("samples/s", "{:,.0f}"),
        "own": ("seconds of a trial outside its backtest", "{:.2f}"),
        "share": ("share of them", "{:.1f} %"),
    }
    rows = {name.replace("at once", f"{options.workers} at once"): row(runs) for name, runs in measured.items()}
    # Outside the backtest, trials at once share their time: the difference says nothing there.
    for name, figures in rows.items():
        if name.endswith("at once"):
            figures["own"] = figures["share"] = None
    title = f"{options.trials} trials of {options.cycles} cycles, {N_ENVS} environments, medians of {options.rounds}"
    Console(width=150).print(table(title, columns, rows))
    print(f"figures: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
