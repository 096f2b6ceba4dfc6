"""The tutorial's backtest from start to end, with this package's learner and with freqtrade's, at its best too.

Two pairs, five periods each, 30 cycles: a quarter of an hour with configs/config_rl_fast.json, more than an hour with
freqtrade's ReinforcementLearner, so that ``make bench`` leaves it out. Every run starts without models or predictions;
the contenders of a round follow one another, and none is stopped. Let nothing else run beside it.

    python benchmarks/whole_command.py fast stock stock_all --rounds 3
    python benchmarks/whole_command.py main processes --rounds 3
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from main_config import MAIN_CONFIG, PPO_ARGUMENTS, RL_CONFIG, ROOT
from rich.console import Console
from rich.table import Table
from run_facts import facts

from mtfscalper.offline import SYNTHETIC_DATADIR
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import FREQAI_MODEL, STRATEGY, freqtrade_command, run_freqtrade, write_overlay
from mtfscalper.offline.freqtrade_command import MAIN_CONFIG as MAIN_CONFIG_PATH
from mtfscalper.offline.synthetic import write_market

TIMERANGE = "20241001-20241101"


class Contender(NamedTuple):
    """One way to run the command.

    :ivar configs: configuration files beside the main one
    :ivar overlay: configuration that overrides all of them
    """

    model: str
    strategy: str
    configs: tuple[Path, ...] = ()
    overlay: dict[str, Any] | None = None


_STOCK: dict[str, Any] = {
    "strategy_path": "benchmarks/stock_strategy",
    "freqai": {
        "model_training_parameters": PPO_ARGUMENTS,
        # What freqtrade's learner does not have.
        "rl_config": {"decision_mode": "replay", "add_state_info": False},
    },
}
_SIDE_BY_SIDE: dict[str, Any] = {"freqai": {"rl_config": {"executor": "processes", "workers": 2, "threads_per_job": 1}}}
CONTENDERS = {
    "main": Contender(FREQAI_MODEL, STRATEGY),
    # The same side by side; as many threads in all on two processors as the first.
    "processes": Contender(FREQAI_MODEL, STRATEGY, overlay=_SIDE_BY_SIDE),
    "fast": Contender(FREQAI_MODEL, STRATEGY, (Path("configs/config_rl_fast.json"),)),
    "stock": Contender("ReinforcementLearner", "StockHybrid", overlay=_STOCK),
    "stock_all": Contender(
        "AllProcessors", "StockHybrid", overlay=_STOCK | {"freqaimodel_path": "benchmarks/stock_strategy"}
    ),
}


def seconds_of(contender: Contender, exchange: str, cycles: int) -> dict[str, float]:
    """Run freqtrade's command, its output on the terminal, and time it.

    :param exchange: the loopback exchange's address
    """
    quiet = {"activate_tensorboard": False, "rl_config": {"train_cycles": cycles, "progress_bar": False}}
    with tempfile.TemporaryDirectory() as home:
        own = Path(home, "contender.json")
        own.write_text(json.dumps(contender.overlay or {}), encoding="utf-8")
        overlay = write_overlay(Path(home, "overlay.json"), exchange, {"freqai": quiet})
        command = freqtrade_command(
            "backtesting",
            [MAIN_CONFIG_PATH, *contender.configs, overlay, own],
            timerange=TIMERANGE,
            strategy=contender.strategy,
            freqaimodel=contender.model,
            datadir=SYNTHETIC_DATADIR,
            userdir=home,
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        status = run_freqtrade(command, ROOT)
        if status:
            raise subprocess.CalledProcessError(status, command)
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        trainings = len(list(Path(home, "models").glob("*/sub-train-*")))
    processor = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
    return {"seconds": seconds, "processor_seconds": processor, "trainings": trainings}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("contenders", nargs="+", choices=CONTENDERS, help="what to run, one after the other")
    parser.add_argument("--cycles", type=int, default=RL_CONFIG["train_cycles"], help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=1, help="of all contenders (default %(default)s)")
    default = Path(tempfile.gettempdir(), "whole_command.json")
    parser.add_argument("--json", type=Path, default=default, help="where the figures go (default %(default)s)")
    options = parser.parse_args(argv)
    write_market(ROOT / SYNTHETIC_DATADIR)
    pairs = len(MAIN_CONFIG["exchange"]["pair_whitelist"])
    table = Table("", title=f"{TIMERANGE}, {pairs} pairs, {options.cycles} cycles, rounds: {options.rounds}")
    first_name = options.contenders[0]
    for heading in ("minutes", "from, to", f"x {first_name}", "processor minutes", "trainings"):
        table.add_column(heading, justify="right")
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in options.contenders}
    with ReplayExchange(ROOT / SYNTHETIC_DATADIR, 0) as exchange:
        for _ in range(options.rounds):
            for name in options.contenders:
                measured[name].append(seconds_of(CONTENDERS[name], exchange.url, options.cycles))
                options.json.write_text(json.dumps(facts() | {"cycles": options.cycles, "runs": measured}, indent=1))
    for name, runs in measured.items():
        minutes = [median(run[key] for run in runs) / 60 for key in ("seconds", "processor_seconds")]
        # Round by round beside the first contender, for the machine may be slower in one round than in another.
        ratio = median(run["seconds"] / first["seconds"] for run, first in zip(runs, measured[first_name], strict=True))
        spread = f"{min(run['seconds'] for run in runs) / 60:.1f} to {max(run['seconds'] for run in runs) / 60:.1f}"
        table.add_row(
            name, f"{minutes[0]:.1f}", spread, f"{ratio:.2f}", f"{minutes[1]:.1f}", f"{runs[0]['trainings']:.0f}"
        )
    Console().print(table)
    print(f"figures: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
