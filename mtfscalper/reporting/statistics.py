"""What a series of trades earned: profit, costs and risk, marked daily."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper.reporting.sharpe import annual_sharpe, annual_sortino

_Floats = npt.NDArray[np.float64]


class Statistics(NamedTuple):
    """Figures of one way to trade; money in stake currency, None where there is nothing to divide by.

    :ivar trades: how many; None for a holding without trades
    :ivar profit_ratio: of the wallet at the start, after costs
    :ivar per_trade: mean profit of a trade, as a share of its stake, after costs
    :ivar gross: profit before fees and funding
    :ivar fees: paid
    :ivar funding: received, negative if paid
    :ivar net: ``gross - fees + funding``
    :ivar sharpe: annual, of daily profits over the wallet at the start, as ``sortino``
    :ivar max_drawdown_ratio: the deepest fall of the daily marked equity from its peak
    :ivar profit_factor: gains over losses, of trades after costs
    :ivar win_ratio: share of trades with a gain
    """

    trades: int | None
    profit_ratio: float
    per_trade: float | None
    gross: float
    fees: float
    funding: float
    net: float
    sharpe: float
    sortino: float
    max_drawdown_ratio: float
    profit_factor: float | None
    win_ratio: float | None


def statistics_of(trades: pd.DataFrame, daily: _Floats, starting_balance: float) -> Statistics:
    """
    :param trades: with the columns of :data:`mtfscalper.reporting.trades.COLUMNS`
    :param daily: profit of each day of the run, stake currency, shape (n_days,)
    """
    profits = trades["profit"].to_numpy(dtype=np.float64)
    gains, losses = float(profits[profits > 0].sum()), float(-profits[profits < 0].sum())
    return Statistics(
        trades=len(trades),
        profit_ratio=float(profits.sum()) / starting_balance,
        per_trade=float(trades["profit_ratio"].mean()) if len(trades) else None,
        gross=float(trades["gross"].sum()),
        fees=float(trades["fees"].sum()),
        funding=float(trades["funding"].sum()),
        net=float(profits.sum()),
        **_risk(daily, starting_balance),
        profit_factor=gains / losses if losses else None,
        win_ratio=float((profits > 0).mean()) if len(profits) else None,
    )


def statistics_of_holding(
    daily: _Floats, fees: float, funding: float, starting_balance: float, trades: int | None = None
) -> Statistics:
    """The figures of what is held and not traded.

    :param daily: profit of each day of the run after costs, stake currency, shape (n_days,)
    :param fees: paid
    :param funding: received, negative if paid
    """
    net = float(daily.sum())
    return Statistics(
        trades=trades,
        profit_ratio=net / starting_balance,
        per_trade=None,
        gross=net + fees - funding,
        fees=fees,
        funding=funding,
        net=net,
        **_risk(daily, starting_balance),
        profit_factor=None,
        win_ratio=None,
    )


def mean_statistics(each: list[Statistics]) -> Statistics:
    """The mean of every figure over several draws; None where a draw has none."""

    def mean(values: tuple[float | None, ...]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None

    means = [mean(values) for values in zip(*each, strict=True)]
    return Statistics(*means)._replace(trades=each[0].trades)  # type: ignore[arg-type]


def _risk(daily: _Floats, starting_balance: float) -> dict[str, float]:
    returns = daily / starting_balance
    equity = starting_balance + np.cumsum(np.append(0.0, daily))
    peak = np.maximum.accumulate(equity)
    return {
        "sharpe": annual_sharpe(returns),
        "sortino": annual_sortino(returns),
        "max_drawdown_ratio": float(((peak - equity) / peak).max()),
    }
