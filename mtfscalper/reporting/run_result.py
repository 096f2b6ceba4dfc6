"""A backtest of freqtrade, as its export tells of it: trades, settings in force, config and where its files lie."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from freqtrade.configuration.load_config import load_from_files
from freqtrade.data.btanalysis import load_backtest_data, load_backtest_stats
from freqtrade.data.btanalysis.bt_fileutils import get_latest_backtest_filename, load_file_from_zip
from freqtrade.enums import CandleType, RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.misc import deep_merge_dicts

from mtfscalper.freqai.archive import Archive
from mtfscalper.offline import SYNTHETIC_DATADIR
from mtfscalper.seals import Seals

RESULTS_FOLDER = "backtest_results"
DAY_SECONDS = 86_400
DAY_MS = 1000 * DAY_SECONDS


class ReportError(RuntimeError):
    """A report cannot be made. One line: what, where, received, accepted, remedy."""


class Asked(NamedTuple):
    """What the user names; None takes what the result says, or freqtrade's own place.

    :ivar result: an export, or a folder of them
    :ivar strategy_path: the folder of the strategy's file
    :ivar configs: configuration files that override the config in the export, later ones the earlier ones
    """

    result: Path | None = None
    strategy: str | None = None
    user_data_dir: Path | None = None
    configs: Sequence[Path] = ()
    datadir: Path | None = None
    strategy_path: Path | None = None


class RunResult(NamedTuple):
    """What one backtest of one strategy left.

    :ivar path: the export
    :ivar stats: freqtrade's figures and the settings in force, without the trades
    :ivar config: the config it ran with
    :ivar trades: freqtrade's, one row a trade, in the order of their entries
    :ivar user_data_dir: where models and records of the run lie
    :ivar datadir: where its candles lie
    """

    path: Path
    strategy: str
    stats: Mapping[str, Any]
    config: Mapping[str, Any]
    trades: pd.DataFrame
    user_data_dir: Path
    datadir: Path

    @classmethod
    def read(cls, asked: Asked) -> RunResult:
        """Read the export that is asked for, or the newest one.

        :raises ReportError: if there is none, or it cannot be used
        """
        path = _export(asked)
        try:
            read = load_backtest_stats(path)
        except (ValueError, OSError, KeyError) as error:
            raise ReportError(
                f"{path} cannot be read ({error}); accepted: an export of freqtrade backtesting"
            ) from None
        strategies = dict(read["strategy"]) if isinstance(read, dict) and "strategy" in read else {}
        if not strategies:
            raise ReportError(
                f"{path} holds no strategy; accepted: an export of freqtrade backtesting; remedy: name another file"
            )
        strategy = asked.strategy or (next(iter(strategies)) if len(strategies) == 1 else None)
        if strategy not in strategies:
            raise ReportError(
                f"{path} holds the strategies {', '.join(strategies)}; received: {asked.strategy}; remedy: name one of "
                "them with --strategy"
            )
        stats = {name: value for name, value in strategies[strategy].items() if name != "trades"}
        config = _config_of(path, asked.configs)
        if asked.strategy_path is not None:
            config["strategy_path"] = str(asked.strategy_path)
        user_data_dir = asked.user_data_dir or _user_data_dir(path, config)
        datadir = datadir_of(asked, user_data_dir, stats, config)
        return cls(path, strategy, stats, config, load_backtest_data(path, strategy), user_data_dir, datadir)

    # ------------------------------------------------------------------ what was traded

    @property
    def timeframe(self) -> str:
        """Of the candles that were traded on."""
        return str(self.stats["timeframe"])

    @property
    def pairs(self) -> list[str]:
        """The pairs that could be traded."""
        return list(self.stats["pairlist"])

    @property
    def is_futures(self) -> bool:
        """Whether there are shorts, leverage and funding."""
        return str(self.stats.get("trading_mode", "spot")) == "futures"

    @property
    def candle_type(self) -> CandleType:
        """Of the candles that were traded on."""
        return CandleType.FUTURES if self.is_futures else CandleType.SPOT

    @property
    def data_format(self) -> str:
        """Of the candles' files."""
        return str(self.config.get("dataformat_ohlcv", "feather"))

    @property
    def first_ms(self) -> int:
        """The first candle that was traded on, milliseconds since 1970."""
        return int(self.stats["backtest_start_ts"])

    @property
    def last_ms(self) -> int:
        """The last candle of the data, at whose open what is left is closed."""
        return int(self.stats["backtest_end_ts"])

    @property
    def starting_balance(self) -> float:
        """The wallet at the start, in stake currency."""
        return float(self.stats["starting_balance"])

    @property
    def slots(self) -> float:
        """Trades that could be open at once."""
        slots: float | None = self.stats.get("max_open_trades_setting", self.config.get("max_open_trades", -1))
        return math.inf if slots is None or slots < 0 else slots

    @property
    def seals(self) -> Seals:
        """Of the user directory, with what the run was told to trust."""
        rl = self.freqai.get("rl_config", {})
        return Seals(Path(self.user_data_dir), rl.get("trust_models", ()))

    @property
    def n_days(self) -> int:
        """Days of the calendar that the run touches."""
        return self.last_ms // DAY_MS - self.first_ms // DAY_MS + 1

    # ------------------------------------------------------------------ who decided

    @property
    def freqai(self) -> Mapping[str, Any]:
        """The config's section, empty where FreqAI was off."""
        section = self.config.get("freqai") or {}
        return section if section.get("enabled") and self.stats.get("freqaimodel") else {}

    @property
    def archive(self) -> Archive | None:
        """What the run's trainings sealed; None where FreqAI was off."""
        if not self.freqai:
            return None
        config = {**self.config, "user_data_dir": self.user_data_dir, "runmode": RunMode.BACKTEST}
        return Archive.from_config(config)

    @property
    def ran_ms(self) -> tuple[int, int]:
        """When it was made: start and end, milliseconds since 1970."""
        start, end = (int(self.stats.get(f"backtest_run_{name}_ts", 0)) for name in ("start", "end"))
        return start * 1000, end * 1000


def _export(asked: Asked) -> Path:
    """The file that is asked for, or the newest one of a folder."""
    where = asked.result or (asked.user_data_dir or Path("user_data")) / RESULTS_FOLDER
    if where.is_file():
        return where
    if not where.exists():
        raise ReportError(
            f"{where} does not exist; accepted: an export of freqtrade backtesting (a zip file), or a folder of them; "
            "remedy: name it, or the user directory with --userdir"
        )
    try:
        return where / get_latest_backtest_filename(where)
    except ValueError as error:
        raise ReportError(
            f"{where} holds no backtest result ({error}); remedy: run freqtrade backtesting, or name an export"
        ) from None


def _config_of(path: Path, overrides: Sequence[Path]) -> dict[str, Any]:
    """The config that freqtrade put into the export, under what the user gives beside it."""
    config: dict[str, Any] = {}
    if path.suffix == ".zip":
        try:
            config = json.loads(load_file_from_zip(path, f"{path.stem}_config.json"))
        except ValueError as error:
            raise ReportError(f"{path} holds no readable config ({error}); accepted: an export of freqtrade") from None
    elif not overrides:
        raise ReportError(
            f"{path} holds no config; accepted: a zip export of freqtrade, or the config it ran with; remedy: give it "
            "with --config"
        )
    try:
        return deep_merge_dicts(load_from_files([str(file) for file in overrides]), config) if overrides else config
    except OperationalException as error:
        raise ReportError(f"--config cannot be read: {' '.join(str(error).split())}") from None


def _user_data_dir(path: Path, config: Mapping[str, Any]) -> Path:
    # Where freqtrade writes its exports unless it is told otherwise; a user directory may have moved since.
    if path.resolve().parent.name == RESULTS_FOLDER:
        return path.resolve().parents[1]
    return Path(config.get("user_data_dir", "user_data"))


def datadir_of(asked: Asked, user_data_dir: Path, stats: Mapping[str, Any], config: Mapping[str, Any]) -> Path:
    """The first of the folders that candles may lie in that has any of the run's.

    :param stats: of the run: ``pairlist`` and ``timeframe``
    :raises ReportError: if none has
    """
    exchange = str(config.get("exchange", {}).get("name", "")).lower()
    places = [asked.datadir] if asked.datadir else [user_data_dir / "data" / exchange, SYNTHETIC_DATADIR]
    names = [pair.translate(str.maketrans("/:.", "___")) for pair in stats["pairlist"]]
    timeframe = stats["timeframe"]
    for place in places:
        if any(next(place.glob(f"**/{name}-{timeframe}*"), None) for name in names):
            return place
    raise ReportError(
        f"the candles of {', '.join(stats['pairlist'])} ({timeframe}) are not in {' or '.join(map(str, places))}; "
        "accepted: the data directory that the backtest read; remedy: name it with --datadir"
    )
