"""What a run is compared with: the same entries with other exits, the strategy without FreqAI, and holding.

All of them trade on the run's candles, with its fee and its funding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper.freqai.strategy_rules import tradable_ratio
from mtfscalper.market.tape import MarketTape
from mtfscalper.reporting.daily import begun_by_day, by_day, daily_differences, daily_profits
from mtfscalper.reporting.intervals import Interval, mean_interval
from mtfscalper.reporting.reliving import relive
from mtfscalper.reporting.run_result import DAY_MS, RunResult
from mtfscalper.reporting.statistics import Statistics, mean_statistics, statistics_of, statistics_of_holding
from mtfscalper.reporting.trades import with_exits
from mtfscalper.reporting.without_freqai import NotRun, WithoutFreqai
from mtfscalper.reporting.wording import percent
from mtfscalper.trading.trading_rules import TradingRules

RANDOM_DRAWS = 100
SEED = 42

_Floats = npt.NDArray[np.float64]


class Rival(NamedTuple):
    """One way to trade the run's candles.

    :ivar key: short name, for JSON
    :ivar name: as a table has it
    :ivar statistics: None where it cannot be had
    :ivar a_trade: the run's profit of a trade less this one's, entry by entry, as a share of the stake; None where it
        has other entries
    :ivar a_day: the run's profit of a day less this one's, as a share of the wallet at the start; None for the run
    :ivar equity: of each day's end, stake currency; empty where it cannot be had
    :ivar note: what else is to be known
    """

    key: str
    name: str
    statistics: Statistics | None
    a_trade: Interval | None = None
    a_day: Interval | None = None
    equity: tuple[float, ...] = ()
    note: str = ""


class Compared(NamedTuple):
    """A run beside its rivals.

    :ivar run: the run itself
    :ivar classic: its entries with classic exits, with :data:`mtfscalper.reporting.trades.COLUMNS`
    :ivar paired: the run's profit of each day less that of its entries with classic exits, as shares of the stakes;
        index ``day`` (since 1970), of the days on which either holds a trade
    :ivar verdict: the difference of a trade, with its interval
    """

    run: Rival
    rivals: tuple[Rival, ...]
    classic: pd.DataFrame
    paired: pd.Series[float]
    verdict: Interval


class _Bench:
    """Marks and compares; everything that all rivals share."""

    def __init__(
        self,
        result: RunResult,
        trades: pd.DataFrame,
        tapes: Mapping[str, MarketTape],
        rules: Mapping[str, TradingRules],
    ) -> None:
        self.result, self.trades, self.tapes, self.rules = result, trades, tapes, rules
        self.balance = result.starting_balance
        self.marks = daily_profits(trades, tapes, rules)
        self.daily = self.day_profits(self.marks)

    def day_profits(self, marks: pd.DataFrame) -> _Floats:
        """Profit of each day of the run, stake currency."""
        return by_day(
            marks["day"].to_numpy(), marks["profit"].to_numpy(), self.result.first_ms // DAY_MS, self.result.n_days
        )

    def traded(
        self, key: str, name: str, trades: pd.DataFrame, marks: pd.DataFrame | None = None, *, paired: bool = False
    ) -> Rival:
        """A rival that trades.

        :param marks: its :func:`mtfscalper.reporting.daily.daily_profits`, where they are known
        """
        if marks is None:
            marks = daily_profits(trades, self.tapes, self.rules)
        daily = self.day_profits(marks)
        a_trade = self.a_trade(self.differences(marks)) if paired else None
        return self.rival(key, name, statistics_of(trades, daily, self.balance), daily, a_trade=a_trade)

    def rival(
        self,
        key: str,
        name: str,
        statistics: Statistics,
        daily: _Floats,
        note: str = "",
        a_trade: Interval | None = None,
    ) -> Rival:
        """A rival of daily profits, beside the run."""
        ones = np.ones(len(daily))
        a_day = mean_interval((self.daily - daily) / self.balance, ones, SEED)
        return Rival(key, name, statistics, a_trade, a_day, self.equity(daily), note)

    def equity(self, daily: _Floats) -> tuple[float, ...]:
        return tuple((self.balance + np.cumsum(daily)).tolist())

    def differences(self, marks: pd.DataFrame) -> pd.Series[float]:
        """The run's profits of each day less those of the same entries with other exits, where either trades."""
        return daily_differences(self.marks, marks)

    def a_trade(self, differences: pd.Series[float]) -> Interval:
        """What such differences make a trade."""
        begun = begun_by_day(self.trades).reindex(differences.index, fill_value=0)
        return mean_interval(differences.to_numpy().astype(np.float64), begun.to_numpy().astype(np.float64), SEED)


def compare(
    result: RunResult,
    trades: pd.DataFrame,
    tapes: Mapping[str, MarketTape],
    rules: Mapping[str, TradingRules],
    without: WithoutFreqai | NotRun,
    progress: Callable[[str], None] = lambda _: None,
) -> Compared:
    """Put a run beside its rivals.

    :param trades: the run's, with :data:`mtfscalper.reporting.trades.COLUMNS`
    :param tapes: the candles of the run, by pair
    :param rules: what ends trades, by pair
    :param without: the strategy without FreqAI
    :param progress: is told what is worked out next
    """
    progress("re-living the entries")
    bench = _Bench(result, trades, tapes, rules)
    classic = relive(trades, tapes, rules)
    marks = daily_profits(classic, tapes, rules)
    paired = bench.differences(marks)
    run = Rival("run", "this run", statistics_of(trades, bench.daily, bench.balance), equity=bench.equity(bench.daily))
    beside = bench.traded("classic_exits", "same entries, classic exits", classic, marks, paired=True)
    assert beside.a_trade is not None
    rivals = [beside]
    rivals += _strategy(bench, without)
    progress(f"leaving at random, {RANDOM_DRAWS} times")
    rivals += [_random(bench), *_holdings(bench)]
    return Compared(run, tuple(rivals), classic, paired, beside.a_trade)


def _strategy(bench: _Bench, without: WithoutFreqai | NotRun) -> list[Rival]:
    names = {
        "own_exits": "same entries, the strategy's exits without FreqAI",
        "classic_run": "full classic run: own entries and slots",
        "strategy_run": "full run of the strategy without FreqAI",
    }
    if isinstance(without, NotRun):
        return [Rival(key, name, None, note=without.reason) for key, name in names.items()]
    exits = relive(bench.trades, bench.tapes, bench.rules, signals=without.signals)
    return [
        bench.traded("own_exits", names["own_exits"], exits, paired=True),
        bench.traded("classic_run", names["classic_run"], without.classic),
        bench.traded("strategy_run", names["strategy_run"], without.own),
    ]


def _random(bench: _Bench) -> Rival:
    """The same entries, left after the run's own holding times, dealt out at random."""
    trades, name = bench.trades, f"same entries, random exits of the same holding times ({RANDOM_DRAWS} draws)"
    if trades.empty:
        return Rival("random_exits", name, None, note="there are no holding times to deal out")
    held, n = np.maximum(trades["held_candles"].to_numpy(dtype=np.int64), 1), len(trades)
    dealt = [np.random.default_rng([SEED, draw]).permutation(held) for draw in range(RANDOM_DRAWS)]
    # All draws at once: a step of the rules costs as much for one trade as for a hundred.
    often = pd.concat([trades] * RANDOM_DRAWS, ignore_index=True)
    lived = relive(often, bench.tapes, bench.rules, leave_after=np.concatenate(dealt))
    marks = daily_profits(lived, bench.tapes, bench.rules)
    draw_of = marks["trade"].to_numpy() // n
    daily = [bench.day_profits(marks[draw_of == draw]) for draw in range(RANDOM_DRAWS)]
    each = [
        statistics_of(lived.iloc[draw * n : (draw + 1) * n], of_draw, bench.balance)
        for draw, of_draw in enumerate(daily)
    ]
    means = [float(one.per_trade or 0.0) for one in each]
    low, high = map(float, np.quantile(means, [0.05, 0.95]))
    ours = float(trades["profit_ratio"].mean())
    beaten = sum(mean < ours for mean in means)
    shares = marks.assign(profit_ratio=marks["profit_ratio"] / RANDOM_DRAWS)
    mean_daily = np.mean(daily, axis=0)
    span = f"{percent(low, 3)} to {percent(high, 3)}"
    note = f"90 % of the draws earn {span} a trade; the run beats {beaten} of {RANDOM_DRAWS}"
    a_trade = bench.a_trade(bench.differences(shares))
    return bench.rival("random_exits", name, mean_statistics(each), mean_daily, note, a_trade)


def _holdings(bench: _Bench) -> list[Rival]:
    nothing = np.zeros(bench.result.n_days)
    flat = statistics_of_holding(nothing, 0.0, 0.0, bench.balance, trades=0)
    return [
        bench.rival("flat", "always flat", flat, nothing),
        _buy_and_hold(bench),
        _equal_weight(bench),
    ]


def _staked(bench: _Bench) -> float:
    """What a strategy may stake of the wallet at the start."""
    return bench.balance * tradable_ratio(bench.result.config)


def _buy_and_hold(bench: _Bench) -> Rival:
    """A long of each pair in equal parts, from the first candle's open to the last one's."""
    tapes = bench.tapes
    part = _staked(bench) / len(tapes)
    entries = pd.DataFrame(
        [
            {
                "pair": pair,
                "is_short": False,
                "leverage": 1.0,
                "stake": part / (1 + bench.rules[pair].fee_ratio),
                "fee_ratio": bench.rules[pair].fee_ratio,
                "open_ms": int(tape.dates_ms[0]),
                "open_rate": float(tape.open[0]),
            }
            for pair, tape in tapes.items()
        ]
    )
    last = [tape.open[-1] for tape in tapes.values()]
    fee = entries["fee_ratio"].to_numpy()
    due = np.array([tape.funding_through[:-1].sum() + tape.funding[-1] for tape in tapes.values()])
    opened = entries["open_rate"].to_numpy() * (1 + fee)
    exits = pd.DataFrame(
        {
            "close_ms": [int(tape.dates_ms[-1]) for tape in tapes.values()],
            "close_rate": last,
            "profit_ratio": (np.array(last) * (1 - fee) - due) / opened - 1,
            "exit_reason": "end",
        }
    )
    held = with_exits(entries, dict(tapes), exits)
    return bench.traded("buy_and_hold", "buy and hold, equal parts at the start", held)


def _equal_weight(bench: _Bench) -> Rival:
    """A long of each pair, brought back to equal parts at every day's first open."""
    first_day, n = bench.result.first_ms // DAY_MS, bench.result.n_days
    at = [
        np.minimum(np.searchsorted(tape.dates_ms, (first_day + np.arange(n + 1)) * DAY_MS), len(tape) - 1)
        for tape in bench.tapes.values()
    ]
    rates = np.array([tape.open[days] for tape, days in zip(bench.tapes.values(), at, strict=True)])
    dues = np.array(
        [
            np.diff(np.concatenate([[0.0], np.cumsum(tape.funding_through)])[days])
            for tape, days in zip(bench.tapes.values(), at, strict=True)
        ]
    )
    fee = np.array([bench.rules[pair].fee_ratio for pair in bench.tapes])
    equity = _staked(bench)
    values, daily = np.zeros(len(rates)), np.zeros(n)
    fees = funding = 0.0
    for day in range(n):
        wanted = np.full(len(rates), equity / len(rates))
        paid = float((np.abs(wanted - values) * fee).sum())
        received = -float((wanted / rates[:, day] * dues[:, day]).sum())
        values = wanted * rates[:, day + 1] / rates[:, day]
        if day == n - 1:
            paid += float((values * fee).sum())
        daily[day] = float((values - wanted).sum()) - paid + received
        fees, funding, equity = fees + paid, funding + received, equity + daily[day]
    figures = statistics_of_holding(daily, fees, funding, bench.balance)
    return bench.rival("equal_weight", "equal weight, rebalanced daily", figures, daily)
