"""Reports made by hand: of as many trades as a test likes, with names that a browser must not take for markup."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mtfscalper.market.tape import MarketTape
from mtfscalper.reporting.audit.audit import Audit
from mtfscalper.reporting.breakdowns import breakdowns, excursions, with_excursions
from mtfscalper.reporting.charts import chosen_candles
from mtfscalper.reporting.importance import GroupImportance, Importance
from mtfscalper.reporting.intervals import Interval
from mtfscalper.reporting.origin import Origin
from mtfscalper.reporting.periods import EvaluationPoint, PeriodResult, Stretch
from mtfscalper.reporting.policies import exit_grid
from mtfscalper.reporting.report import Decisions, Report
from mtfscalper.reporting.rivals import Rival
from mtfscalper.reporting.sharpe import DeflatedSharpe
from mtfscalper.reporting.statistics import Statistics
from mtfscalper.reporting.trades import COLUMNS
from mtfscalper.reporting.verdict import judge

HOSTILE = "</script><img src=x onerror=alert(1)>&'\""
FIRST_MS = 1_735_689_600_000
CANDLE_MS = 300_000
DAY_MS = 86_400_000
BALANCE = 10_000.0
REASONS = ("rl_exit", "stop_loss", "roi", "max_duration")


def tape_of(pair: str, n_candles: int, rng: np.random.Generator) -> MarketTape:
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.001, n_candles)))
    opened = np.append(100.0, close[:-1])
    frame = pd.DataFrame(
        {
            "date": pd.to_datetime(FIRST_MS + CANDLE_MS * np.arange(n_candles), unit="ms", utc=True),
            "open": opened,
            "high": np.maximum(opened, close) * 1.0005,
            "low": np.minimum(opened, close) * 0.9995,
            "close": close,
            "price_scale": 0.01,
        }
    )
    empty = np.empty((n_candles, 0), dtype=np.float32)
    return MarketTape.from_frame(frame, empty, pair=pair, timeframe_ms=CANDLE_MS, signals_needed=False)


def trades_on(tapes: dict[str, MarketTape], n_trades: int, rng: np.random.Generator) -> pd.DataFrame:
    pairs = rng.choice(list(tapes), n_trades)
    n_candles = min(map(len, tapes.values()))
    opened, held = rng.integers(0, n_candles - 100, n_trades), rng.integers(1, 97, n_trades)
    rates = [
        (tapes[pair].open[first], tapes[pair].open[first + length])
        for pair, first, length in zip(pairs, opened, held, strict=True)
    ]
    open_rate, close_rate = np.array(rates).T
    ratio = close_rate / open_rate - 1.001
    frame = pd.DataFrame(
        {
            "pair": pairs,
            "is_short": False,
            "leverage": 1.0,
            "stake": 1000.0,
            "fee_ratio": 0.0005,
            "open_ms": FIRST_MS + CANDLE_MS * opened,
            "close_ms": FIRST_MS + CANDLE_MS * (opened + held),
            "open_rate": open_rate,
            "close_rate": close_rate,
            "held_candles": held,
            "profit_ratio": ratio,
            "profit": 1000 * ratio,
            "gross": 1000 * ratio + 1.0,
            "fees": 1.0,
            "funding": 0.0,
            "exit_reason": rng.choice([*REASONS, HOSTILE], n_trades),
        }
    ).sort_values("open_ms", ignore_index=True)
    return frame[list(COLUMNS)]


def questions_about(trades: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    rows = trades.loc[trades.index.repeat(trades["held_candles"])]
    held = rows.groupby(level=0).cumcount().to_numpy() + 1
    probability = rng.beta(1, 8, len(rows))
    return pd.DataFrame(
        {
            "pair": rows["pair"].to_numpy(),
            "candle": pd.to_datetime(rows["open_ms"].to_numpy() + CANDLE_MS * held, unit="ms", utc=True),
            "opened": pd.to_datetime(rows["open_ms"].to_numpy(), unit="ms", utc=True),
            "side": "long",
            "profit": rng.normal(0, 0.01, len(rows)),
            "held_candles": held,
            "probability": probability,
            "leave": probability > 0.5,
        }
    )


def report_of_chance(
    n_trades: int = 120, n_days: int = 40, pairs: tuple[str, ...] = ("BTC/USDT:USDT", HOSTILE), strategy: str = HOSTILE
) -> Report:
    """A report of trades at random, with everything that a report can have."""
    rng = np.random.default_rng(7)
    tapes = {pair: tape_of(pair, 288 * n_days, rng) for pair in pairs}
    trades = with_excursions(trades_on(tapes, n_trades, rng), tapes)
    classic = trades.assign(profit_ratio=trades["profit_ratio"] + rng.normal(0, 0.002, n_trades))
    classic = classic.assign(profit=1000 * classic["profit_ratio"])
    questions = questions_about(trades, rng)
    a_trade = Interval(-0.0002, -0.0009, 0.0005)
    figures = Statistics(n_trades, -0.05, -0.0004, 10.0, 120.0, -1.5, -111.5, -1.2, -1.7, 0.08, 0.9, 0.45)
    days = tuple(str(np.datetime64(FIRST_MS // DAY_MS + day, "D")) for day in range(n_days))

    def equity() -> tuple[float, ...]:
        return tuple((BALANCE + np.cumsum(rng.normal(-2, 40, n_days))).tolist())

    stretch = Stretch(-0.01, 12, 7.0)
    periods = tuple(
        PeriodResult(
            pair=pair,
            first_ms=FIRST_MS + at * 7 * DAY_MS,
            stop_ms=FIRST_MS + (at + 1) * 7 * DAY_MS,
            training=Stretch(0.3, 40 + at, 21.0),
            evaluation=Stretch(0.02, 3 + at, 3.0),
            traded=stretch,
            classic=Stretch(-0.008, 12, 7.0),
            gap_a_day=0.02 / 3 + 0.01 / 7,
            evaluations=tuple(EvaluationPoint(1000 * n, 0.01 * n / 3, n) for n in range(1, 4)),
            chosen_timesteps=3000,
            training_seconds=12.0,
            timesteps=3000,
        )
        for pair in pairs
        for at in range(n_days // 7)
    )
    names = ("classic_exits", "own_exits", "random_exits")
    rivals = [
        Rival(key, key.replace("_", " "), figures, a_trade, Interval(0.0, -0.001, 0.001), equity()) for key in names
    ]
    rivals += [Rival("classic_run", f"full {HOSTILE}", None, note=f"{HOSTILE} cannot be loaded")]
    rivals += [Rival("flat", "always flat", figures, None, Interval(0.0, None, None), (BALANCE,) * n_days)]
    changed = {f"classic_{name}": classic[name] for name in ("close_ms", "close_rate", "profit_ratio", "profit")}
    shown = trades.assign(**changed, classic_exit_reason=classic["exit_reason"])
    return Report(
        result="/results/backtest-result-2025-02-10.zip",
        strategy=strategy,
        policy=True,
        verdict=judge(a_trade, n_trades, n_days, -0.0004, -0.0002),
        run=Rival("run", "this run", figures, equity=equity()),
        rivals=tuple(rivals),
        days=days,
        paired_days=days,
        paired_differences=tuple(rng.normal(0, 0.01, n_days).tolist()),
        deflated_sharpe=DeflatedSharpe(12, 1.4, 0.03),
        periods=periods,
        groups=breakdowns(trades, classic, 5),
        excursions=excursions(trades),
        decisions=Decisions(len(questions), int(questions["leave"].sum()), 17, exit_grid(questions)),
        actions={f"{pair}, flat": {"wait": 0.9, "enter long": 0.1} for pair in pairs},
        importance=Importance(
            200, 4, tuple(GroupImportance("indicator", f"{HOSTILE}{at}", 3, 0.02 / (at + 1), 0.01) for at in range(5))
        ),
        trades=tuple({str(name): value for name, value in row.items()} for row in shown.to_dict("records")),
        candles=chosen_candles(trades, tapes, questions),
        audit=Audit(n_trades, n_trades, (), ()),
        origin=Origin(
            settings={"starting_balance": BALANCE, "stake_currency": "USDT", "timeframe": "5m", "fee_ratio": 0.0005}
            | {"pairs": list(pairs)},
            rl_config={"net_arch": [16]},
            seed=42,
            versions={"mtfscalper": "1"},
            data={pair: {"first": days[0], "last": days[-1], "candles": 288 * n_days} for pair in pairs},
            times={
                "made": "2025-02-10 00:00",
                "backtest_seconds": 60.0,
                "training_seconds": 40.0,
                "trainings": 10,
                "timesteps": 30_000,
            },
            machine={"processors": 2},
            command=f"freqtrade backtesting --strategy '{HOSTILE}'",
        ),
        missing=(f"nothing of {HOSTILE}",),
    )
