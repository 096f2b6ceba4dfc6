"""What ``validate_monitoring.py`` is tried on: a small training of one pair on a month of the synthetic market."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtfscalper.offline.synthetic import write_market

ROOT = Path(__file__).parents[1]
PAIR = "BTC/USDT:USDT"
TIMERANGE = "20241001-20241004"

_FREQAI: dict[str, Any] = {
    "train_period_days": 4,
    "rl_config": {
        "n_envs": 2,
        "n_steps": 128,
        "batch_size": 64,
        "n_epochs": 4,
        "net_arch": [32, 16],
        "entry_mode": "classic",
    },
}


def write_candles(folder: Path) -> Path:
    """Write a backtest of three days, training, and what indicators look back on.

    :return: the folder
    """
    write_market(folder, start=datetime(2024, 9, 5, tzinfo=UTC), stop=datetime(2024, 10, 6, tzinfo=UTC), pairs=(PAIR,))
    return folder


def write_configs(folder: Path, *other_pairs: str) -> tuple[Path, ...]:
    """Write the overlay of a small training.

    :param other_pairs: of the whitelist, of which there are no candles
    :return: the configuration that it lies on top of, and the overlay
    """
    small = folder / "small.json"
    small.write_text(json.dumps({"exchange": {"pair_whitelist": [PAIR, *other_pairs]}, "freqai": _FREQAI}))
    return (ROOT / "configs" / "config_rl_hybrid.json", small)
