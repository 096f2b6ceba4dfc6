"""The README's backtest from start to end, with this package's learner and with freqtrade's.

Two pairs, five periods each, 30 cycles: a quarter of an hour with configs/config_rl_fast.json, more than an hour with
freqtrade's ReinforcementLearner, so that ``make bench`` leaves it out. Every run starts without models or predictions.

    python benchmarks/whole_command.py fast stock
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
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


CONTENDERS = {
    "main": Contender(FREQAI_MODEL, STRATEGY),
    "fast": Contender(FREQAI_MODEL, STRATEGY, (Path("configs/config_rl_fast.json"),)),
    "stock": Contender(
        "ReinforcementLearner",
        "StockHybrid",
        overlay={
            "strategy_path": "benchmarks/stock_strategy",
            "freqai": {
                "model_training_parameters": PPO_ARGUMENTS,
                # What freqtrade's learner does not have.
                "rl_config": {"decision_mode": "replay", "add_state_info": False},
            },
        },
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
    default = Path(tempfile.gettempdir(), "whole_command.json")
    parser.add_argument("--json", type=Path, default=default, help="where the figures go (default %(default)s)")
    options = parser.parse_args(argv)
    write_market(ROOT / SYNTHETIC_DATADIR)
    pairs = len(MAIN_CONFIG["exchange"]["pair_whitelist"])
    table = Table("", title=f"{TIMERANGE}, {pairs} pairs, {options.cycles} cycles")
    for heading in ("minutes", "processor minutes", "trainings"):
        table.add_column(heading, justify="right")
    measured = {}
    with ReplayExchange(ROOT / SYNTHETIC_DATADIR, 0) as exchange:
        for name in options.contenders:
            measured[name] = run = seconds_of(CONTENDERS[name], exchange.url, options.cycles)
            minutes = (f"{run[key] / 60:.1f}" for key in ("seconds", "processor_seconds"))
            table.add_row(name, *minutes, f"{run['trainings']:.0f}")
            options.json.write_text(json.dumps(facts() | {"cycles": options.cycles, "runs": measured}, indent=1))
    Console().print(table)
    print(f"figures: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
