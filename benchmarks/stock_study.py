"""A study with freqtrade's own learner: Optuna around its command, in the lines of ``objective`` and the one after it.

    python stock_study.py TRIALS OVERLAY freqtrade backtesting ...

What bench_study.py puts beside ``mtfscalper study run``. OVERLAY is where each trial's setting is written.
"""

import json
import subprocess
import sys
from pathlib import Path

import optuna
from freqtrade.data.btanalysis import load_backtest_stats

trials, overlay, command = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]


def objective(trial: optuna.Trial) -> float:
    searched = {"learning_rate": trial.suggest_float("learning_rate", 5e-5, 2e-3, log=True)}
    # The strategy wants both places to agree; freqtrade's learner reads the second.
    settings = {"identifier": f"{trial.number}", "rl_config": searched, "model_training_parameters": searched}
    overlay.write_text(json.dumps({"freqai": settings}))
    subprocess.run([*command, "--config", str(overlay)], check=True)
    return load_backtest_stats(overlay.parent / "backtest_results")["strategy"]["StockHybrid"]["profit_total"]


optuna.create_study(direction="maximize").optimize(objective, n_trials=trials)
