"""A bot's database, read as a run: its trades, the rules that its policies were trained for, and what it decided."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from freqtrade.configuration.load_config import load_from_files
from freqtrade.exceptions import OperationalException
from freqtrade.exchange import timeframe_to_msecs
from freqtrade.strategy import IStrategy

from mtfscalper.freqai.bot_record import BotRecord
from mtfscalper.freqai.expiry import Expiry
from mtfscalper.freqai.policy_places import PolicyPlaces
from mtfscalper.freqai.strategy_rules import wallet_of
from mtfscalper.freqai.training_folder import trained_terms
from mtfscalper.reporting.audit.causes import Decided, Seen
from mtfscalper.reporting.audit.decisions import Answer, Decisions, decided_of
from mtfscalper.reporting.run_result import Asked, ReportError, RunResult, datadir_of
from mtfscalper.reporting.without_freqai import NotRun, strategy_of_run
from mtfscalper.trading.reliving import NEVER
from mtfscalper.trading.trading_rules import TradingRules

logger = logging.getLogger(__name__)

_SQLITE = b"SQLite format 3\x00"
# Of a strategy: what ends its trades.
_RULES = (
    *("stoploss", "minimal_roi", "trailing_stop", "trailing_stop_positive", "trailing_stop_positive_offset"),
    *("trailing_only_offset_is_reached", "use_custom_stoploss", "ignore_roi_if_entry_signal"),
)


def is_database(path: Path) -> bool:
    """Whether a file is a bot's database."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def read_bot(asked: Asked) -> tuple[RunResult, BotRecord]:
    """Read a bot's database, and what it recorded.

    :raises ReportError: if it cannot be had
    """
    path = asked.result
    assert path is not None
    if not asked.configs:
        raise ReportError(
            f"{path} is a bot's database, which holds no config; accepted: the config that the bot runs with; remedy: "
            "give it with --config"
        )
    try:
        config = load_from_files([str(file) for file in asked.configs])
    except OperationalException as error:
        raise ReportError(f"--config cannot be read: {' '.join(str(error).split())}") from None
    trades = _trades(path)
    if asked.strategy is not None:
        trades = trades[trades["strategy"] == asked.strategy].reset_index(drop=True)
    strategy = asked.strategy or (str(trades["strategy"].iloc[-1]) if len(trades) else str(config.get("strategy")))
    if asked.strategy_path is not None:
        config["strategy_path"] = str(asked.strategy_path)
    user_data_dir = asked.user_data_dir or Path(config.get("user_data_dir") or path.resolve().parent)
    config |= {"user_data_dir": user_data_dir}
    stats: dict[str, Any] = {
        "timeframe": config.get("timeframe") or "5m",
        "pairlist": sorted({*trades["pair"]}) or list(config.get("exchange", {}).get("pair_whitelist", [])),
        "trading_mode": config.get("trading_mode", "spot"),
        "margin_mode": config.get("margin_mode", ""),
        "stake_amount": config.get("stake_amount", "unlimited"),
        "stake_currency": config.get("stake_currency", "USDT"),
        "starting_balance": wallet_of(config),
        "max_open_trades_setting": config.get("max_open_trades", -1),
        "freqaimodel": config.get("freqaimodel") or "FreqAI",
        "enable_protections": True,
        "locks": _locks(path),
    }
    result = RunResult(path, strategy, stats, config, trades, user_data_dir, Path())
    loaded = strategy_of_run(result)
    if isinstance(loaded, NotRun):
        raise ReportError(
            f"{loaded.reason}; accepted: the bot's strategy; remedy: name its folder with --strategy-path"
        )
    stats |= _of_strategy(loaded, config)
    result = result._replace(datadir=datadir_of(asked, user_data_dir, stats, config))
    config["timeframe"] = stats["timeframe"]
    if not result.freqai:
        raise ReportError(
            f"{path}: in its config freqai.enabled is not true, so that nothing is recorded of the bot; accepted: a "
            "bot that a model of this project decided for; remedy: give its config with --config"
        )
    record = BotRecord.from_config(config)
    # A pair that was looked at and never traded is one of the bot's.
    stats["pairlist"] = sorted({*trades["pair"], *(one.pair for one in record.journal.passes)}) or stats["pairlist"]
    timeframe_ms = timeframe_to_msecs(stats["timeframe"])
    moments = [*trades["open_timestamp"], *trades["close_timestamp"].dropna()]
    if not moments and record.start_ms is None:
        raise ReportError(f"{path} holds no trade, and the bot recorded nothing; accepted: a bot that has traded")
    seen = [*moments, *([record.start_ms, record.stop_ms] if record.start_ms is not None else [])]
    stats["backtest_start_ts"] = int(min(seen)) // timeframe_ms * timeframe_ms
    stats["backtest_end_ts"] = int(max(seen)) // timeframe_ms * timeframe_ms
    return result, record


def _of_strategy(strategy: IStrategy, config: dict[str, Any]) -> dict[str, Any]:
    """What is in force of a strategy."""
    found = {name: getattr(strategy, name) for name in _RULES}
    return {**found, "timeframe": config.get("timeframe") or strategy.timeframe}


def _trades(path: Path) -> pd.DataFrame:
    """Of a database, with the columns that an export of freqtrade has; reads, and writes nothing."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            trades = pd.read_sql("SELECT * FROM trades ORDER BY open_date, pair", connection)
            orders = pd.read_sql("SELECT * FROM orders ORDER BY order_date, id", connection)
    except (sqlite3.Error, pd.errors.DatabaseError) as error:
        raise ReportError(f"{path} cannot be read ({error}); accepted: the database of a freqtrade bot") from None
    for frame, names in ((trades, ("open_date", "close_date")), (orders, ("order_filled_date",))):
        for name in names:
            frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601").dt.as_unit("ms")
    filled = orders[(orders["filled"].fillna(0) > 0) & orders["order_filled_date"].notna()]
    filled = filled.assign(order_filled_timestamp=_milliseconds(filled["order_filled_date"]).astype("int64"))
    filled = filled.assign(safe_price=filled["average"].fillna(filled["price"]))
    shown = ["order_filled_timestamp", "ft_order_side", "safe_price"]
    by_trade: dict[Any, Any] = {
        trade: of_trade[shown].to_dict("records") for trade, of_trade in filled.groupby("ft_trade_id")
    }
    trades["orders"] = pd.Series([by_trade.get(trade, []) for trade in trades["id"]], dtype=object)
    for name in ("open", "close"):
        trades[f"{name}_timestamp"] = _milliseconds(trades[f"{name}_date"])
    renamed = {
        "close_profit": "profit_ratio",
        "close_profit_abs": "profit_abs",
        "stop_loss": "stop_loss_abs",
        "initial_stop_loss": "initial_stop_loss_abs",
    }
    trades = trades.rename(columns=renamed).assign(is_short=trades["is_short"].astype(bool))
    # An entry order that waits has filled nothing: it is no trade yet.
    has_entered = trades["orders"].map(len) > 0
    return trades[has_entered].reset_index(drop=True)


def _locks(path: Path) -> list[dict[str, Any]]:
    """Of a database, as an export of freqtrade has them: a lock that was not lifted, up to its last millisecond."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'pairlocks'").fetchone():
            return []
        locks = pd.read_sql("SELECT * FROM pairlocks WHERE active", connection)
    begin, end = (
        _milliseconds(pd.to_datetime(locks[name], utc=True, format="ISO8601"))
        for name in ("lock_time", "lock_end_time")
    )
    locks = locks.assign(lock_timestamp=begin, lock_end_timestamp=end - 1, reason=locks["reason"].fillna("no reason"))
    found: list[dict[str, Any]] = locks.to_dict("records")  # type: ignore[assignment]
    return found


def _milliseconds(dates: pd.Series[pd.Timestamp]) -> pd.Series[float]:
    """Since 1970; missing where there is no date."""
    return (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(milliseconds=1)


def trained_rules(result: RunResult) -> dict[str, TradingRules]:
    """The rules that a bot's policies were trained for: of each pair those of the newest one that is kept."""
    places = _places(result)
    found = {}
    for pair, names in places.by_pair().items():
        folders = (folder for name in names for folder in places.folders(name.folder.name))
        terms = next(filter(None, map(trained_terms, folders)), None) if pair in result.pairs else None
        if terms is not None:
            found[pair] = terms.rules
    return found


def _places(result: RunResult) -> PolicyPlaces:
    archive = result.archive
    assert archive is not None
    return PolicyPlaces(result.user_data_dir / "models" / archive.identifier, archive, result.seals)


def decisions_of_bot(trades: list[Seen], result: RunResult, record: BotRecord) -> Decisions:
    """What a bot decided about its trades, by its record."""
    kept = {name.folder.name for name in _places(result).names()}
    timeframe_ms = timeframe_to_msecs(result.timeframe)
    expiry = Expiry.from_freqai(result.freqai)
    used, found = set[str](), []
    n_unknown = n_purged = 0
    for trade in trades:
        first, stop = trade.filled_ms + timeframe_ms, record.stop_ms if trade.exit_ms is None else trade.exit_ms
        answers = {}
        for candle in range(first, stop + 1, timeframe_ms):
            answer = record.answer(trade.pair, trade.entry_ms, trade.side, candle)
            if answer.decision is not None:
                answers[candle] = Answer(answer.decision.leave, answer.policy)
        if not answers and not record.had(trade.pair, trade.entry_ms, trade.side, trade.entry_ms):
            n_unknown += 1
            found.append(Decided(NEVER, known=False))
            continue
        policies = {answer.policy for answer in answers.values() if answer.policy}
        used |= policies
        n_purged += bool(policies - kept)

        def expired(candle: int, policy: str) -> str:
            trained = policy.rsplit("_", 1)[-1]
            if not trained.isdigit() or not expiry.has_expired(int(trained), candle / 1000):
                return ""
            hours = (candle / 1000 - int(trained)) / 3600
            return f"{policy} was {hours:.0f} hours old, and expires after {expiry.hours:g}"

        found.append(decided_of(trade, answers, lambda _: True, expired, timeframe_ms, record.stop_ms))
    notes = []
    if purged := sorted(used - kept):
        notes.append(
            f"{len(purged)} of the {len(used)} policies that decided are no longer kept ({purged[0]}): the record of "
            f"decisions decides about their {n_purged} trades"
        )
    if n_unknown:
        notes.append(
            f"of {n_unknown} trades no decision is on record: their exits by the policy are taken as they are; "
            "`freqtrade backtesting --freqai-backtest-live-models` asks the policies again"
        )
    return Decisions(found, tuple(notes))


def slippage_note(rates: list[tuple[float, float, int]]) -> str:
    """How far a bot's rates lay from those of the candles.

    :param rates: of each fill: the rate, the candle's, and +1 where a higher rate costs, -1 where it earns
    """
    if not rates:
        return "no rate of the bot can be compared"
    bps = np.array([1e4 * sign * (rate / market - 1) for rate, market, sign in rates])
    return (
        f"slippage of {len(bps)} fills against the rates of the candles: {bps.mean():+.2f} bps in the mean, "
        f"{np.median(bps):+.2f} in the median, {bps.max():+.2f} at worst"
    )
