"""The guard on real candles: the same backtest as shipped, with folds, and with folds and the guard.

Every run starts without models. Candles lie in a folder as freqtrade downloads them; none are part of this project.

    python benchmarks/guard_on_candles.py ../shared/data/binance --pairs BTC/USDT:USDT ETH/USDT:USDT
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from freqtrade.data.btanalysis import load_backtest_stats
from main_config import ROOT
from rich.console import Console
from rich.table import Table
from run_facts import facts

from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import (
    FREQAI_MODEL,
    MAIN_CONFIG,
    STRATEGY,
    freqtrade_command,
    run_freqtrade,
    write_overlay,
)
from mtfscalper.training.paired_result import PairedResult

# What each run sets beside the main configuration.
CONTENDERS: dict[str, dict[str, Any]] = {
    "shipped": {},
    "folds": {"evaluation_folds": 4},
    "guarded": {"evaluation_folds": 4, "fallback": "classic"},
}


def run(name: str, options: argparse.Namespace, exchange: str) -> dict[str, Any]:
    """One backtest, its output on the terminal; what it earned, and what was judged."""
    rl = {"progress_bar": False, **json.loads(options.rl_config), **CONTENDERS[name]}
    freqai = {
        "activate_tensorboard": False,
        "train_period_days": options.train_days,
        "backtest_period_days": options.test_days,
        "data_split_parameters": {"test_size": options.test_size, "shuffle": False},
        "rl_config": rl,
    }
    with tempfile.TemporaryDirectory() as home:
        Path(home, "backtest_results").mkdir()
        overlay = write_overlay(Path(home, "overlay.json"), exchange, {"freqai": freqai})
        command = freqtrade_command(
            "backtesting",
            [MAIN_CONFIG, overlay],
            pairs=options.pairs,
            timerange=options.timerange,
            strategy=STRATEGY,
            freqaimodel=FREQAI_MODEL,
            datadir=options.datadir.resolve(),
            userdir=home,
        )
        status = run_freqtrade(command, ROOT)
        if status:
            raise subprocess.CalledProcessError(status, command)
        result = load_backtest_stats(Path(home, "backtest_results"))["strategy"][STRATEGY]
        reports = [
            json.loads(path.read_text()) for path in Path(home, "models").glob("*/sub-train-*/training_report.json")
        ]
    judged = [report["judged"] for report in reports if report["judged"] is not None]
    profits = [trade["profit_ratio"] for trade in result["trades"]]
    return {
        "trainings": len(reports),
        "trades": len(profits),
        "profit_per_trade": sum(profits) / max(len(profits), 1),
        "profit_total": result["profit_total"],
        "choosing_trades": sorted(
            report["best_evaluation"]["trades"] for report in reports if report["best_evaluation"]
        ),
        "judged": judged,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("datadir", type=Path, help="holds the folder futures")
    parser.add_argument("--pairs", nargs="+", default=["BTC/USDT:USDT"])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--timerange", default="20250401-20250801")
    parser.add_argument("--train-days", type=int, default=60)
    parser.add_argument("--test-days", type=int, default=30)
    parser.add_argument("--test-size", type=float, default=0.4)
    parser.add_argument("--rl-config", default="{}", help="further keys, as JSON")
    default = Path(tempfile.gettempdir(), "guard_on_candles.json")
    parser.add_argument("--json", type=Path, default=default, help="where the figures go (default %(default)s)")
    options = parser.parse_args(argv)
    table = Table("", title=f"{options.timerange}, {', '.join(options.pairs)}")
    for heading in ("trainings", "fell back", "trades", "a trade", "in all", "trades that chose", "that judged"):
        table.add_column(heading, justify="right")
    measured: dict[str, Any] = {}
    with ReplayExchange(options.datadir, 0) as exchange:
        for name in options.contenders:
            measured[name] = found = run(name, options, exchange.url)
            judged = [one["trades"] for one in found["judged"]]
            fell = sum(not PairedResult.from_json(one).beats_classic for one in found["judged"])
            table.add_row(
                name,
                str(found["trainings"]),
                f"{fell} of {len(judged)}" if judged else "-",
                str(found["trades"]),
                f"{found['profit_per_trade']:+.3%}",
                f"{found['profit_total']:+.2%}",
                f"{min(found['choosing_trades'])} to {max(found['choosing_trades'])}"
                if found["choosing_trades"]
                else "-",
                f"{min(judged)} to {max(judged)}" if judged else "-",
            )
            options.json.write_text(json.dumps(facts() | {"runs": measured}, indent=1))
    Console().print(table)
    print(f"figures: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
