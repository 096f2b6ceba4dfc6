"""What it costs to reuse only what was computed alike: making a pair's features, keeping a period's, comparing them.

FreqAI's own way on a reused period stands beside: it makes the features of the base timeframe's last row, and the
others' as a whole, for their names alone.

    python benchmarks/bench_computed_frame.py --json bench_computed_frame.json
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
from freqtrade.configuration import Configuration
from freqtrade.data.dataprovider import DataProvider
from freqtrade.enums import CandleType, RunMode
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.resolvers import StrategyResolver

from mtfscalper.freqai.computed_frame import ComputedFrame, FrameSlice, computed_columns
from mtfscalper.offline.synthetic import write_market

ROOT = Path(__file__).parents[1]
PAIR = "BTC/USDT:USDT"
MARKET_START, FIRST, STOP = (datetime(2024, *day, tzinfo=UTC) for day in ((8, 1), (10, 1), (11, 1)))
TIMERANGE = "20241001-20241101"
TRAIN = pd.Timedelta(days=30)


def seconds_of(task: Callable[[], Any], n: int = 5) -> float:
    """Processor seconds, which other processes do not change much: the median of n runs, after one to warm up."""
    task()
    seconds = []
    for _ in range(n):
        started = time.process_time()
        task()
        seconds.append(time.process_time() - started)
    return median(seconds)


def measure(home: Path) -> dict[str, float]:
    """Seconds and sizes of the main configuration's month, one pair."""
    for folder in ("models", "freqaimodels"):
        (home / folder).mkdir()
    write_market(home / "data", start=MARKET_START, stop=STOP, pairs=(PAIR,))
    arguments = {
        "config": [str(ROOT / "configs" / "config_rl_hybrid.json")],
        "user_data_dir": str(home),
        "datadir": str(home / "data"),
        "strategy": "MtfScalper_RL_Hybrid",
        "strategy_path": str(ROOT / "strategies"),
        "freqaimodel": "MtfScalperRLModel",
        "timerange": TIMERANGE,
    }
    config = Configuration(arguments, RunMode.BACKTEST).get_config()
    # What an exchange would fill in.
    config |= {"dataformat_ohlcv": "feather", "candle_type_def": CandleType.FUTURES}
    strategy = StrategyResolver.load_strategy(config)
    strategy.dp = DataProvider(config, None)
    config["startup_candle_count"] = strategy.startup_candle_count
    candles = strategy.dp.historic_ohlcv(PAIR, strategy.timeframe)
    kitchen = FreqaiDataKitchen(config, False, PAIR)

    def make(rows: pd.DataFrame) -> pd.DataFrame:
        return kitchen.use_strategy_to_populate_indicators(strategy, prediction_dataframe=rows, pair=PAIR)

    labelled = strategy.set_freqai_targets(make(candles), metadata={"pair": PAIR})
    first = pd.Timestamp(FIRST)
    period = FrameSlice(computed_columns(labelled), first - TRAIN, first)
    path = home / "kept.npz"
    ComputedFrame.from_rows(period.cut()).save(path)
    assert ComputedFrame.from_file(path).difference(period.cut()) is None
    return {
        "candles of the pair": len(candles),
        "computed columns": len(period.frame.columns) - 1,
        "make the pair's frame, s": seconds_of(lambda: make(candles)),
        "FreqAI's, for the names of the features, s": seconds_of(lambda: make(candles.tail(1))),
        "candles of a training": len(period.cut()),
        "keep a training's, s": seconds_of(lambda: ComputedFrame.from_rows(period.cut()).save(path)),
        "compare a training's, s": seconds_of(lambda: ComputedFrame.from_file(path).difference(period.cut())),
        "on disk, MB": path.stat().st_size / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        figures = measure(Path(home))
    for name, value in figures.items():
        print(f"{name:<45} {value:>10.3f}" if isinstance(value, float) else f"{name:<45} {value:>10,}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": platform.processor(), **figures}, indent=1))


if __name__ == "__main__":
    main()
