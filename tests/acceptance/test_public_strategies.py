"""Strategies in the style of public ones: what of them is simulated, what is named, and why a trade is another one.

Each is trained, backtested, and set beside the closed loop of its own policies, trade by trade.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from freqai.exact_runs import judge, policys_trades
from freqai.freqai_runs import FreqtradeBacktest, Watch
from parity.backtester import as_closed_trades

from mtfscalper.offline.synthetic import write_market
from mtfscalper.trading.trades import ClosedTrade

pytestmark = pytest.mark.acceptance

STRATEGIES = Path(__file__).parent / "public_strategies"
PAIR = "BTC/USDT:USDT"
AGENT: dict[str, Any] = {
    "timerange": "20240905-20240911",
    "freqai": {"train_period_days": 2, "backtest_period_days": 2, "rl_config": {"entry_mode": "agent"}},
}

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datadir = tmp_path_factory.mktemp("market")
    start, stop = datetime(2024, 9, 1, tzinfo=UTC), datetime(2024, 9, 13, tzinfo=UTC)
    write_market(datadir, start=start, stop=stop, pairs=(PAIR,))
    return datadir


def of(strategy: str) -> dict[str, Any]:
    return AGENT | {"strategy": strategy, "strategy_path": STRATEGIES}


def named(caplog: pytest.LogCaptureFixture) -> set[str]:
    """What the run named before training as traded and not simulated, in backtests."""
    block = [record.getMessage() for record in caplog.records if "training does not simulate (" in record.getMessage()]
    lines = block[0].splitlines()[1:] if block else []
    return {line.split(":")[0].strip() for line in lines}


def explained(
    rollout: Sequence[ClosedTrade], backtest: Sequence[ClosedTrade], cause: Callable[[int], str | None]
) -> Counter[str]:
    """Go through both lists and explain every difference; gives how often which was met.

    A trade of one that is missing in the other must begin while the other is still in a trade, or out of one earlier,
    because of a difference before.

    :param cause: of a backtest's trade: what made it another one, None for nothing
    """
    found: Counter[str] = Counter()
    ours, theirs = 0, 0
    while ours < len(rollout) and theirs < len(backtest):
        mine, other = rollout[ours], backtest[theirs]
        if (mine.open_ms, mine.is_short) == (other.open_ms, other.is_short):
            same = mine[:-1] == other[:-1] and np.isclose(mine.profit_ratio, other.profit_ratio, rtol=0, atol=1e-12)
            why = cause(theirs)
            assert same or why is not None, f"without a cause:\nbacktest:    {other}\nclosed loop: {mine}"
            found["the same" if same else str(why)] += 1
            ours, theirs = ours + 1, theirs + 1
        elif mine.open_ms < other.open_ms:
            assert theirs > 0
            assert backtest[theirs - 1].close_ms >= mine.open_ms, f"missing in the backtest: {mine}"
            found["still in the trade before, in the backtest"] += 1
            ours += 1
        else:
            assert ours > 0
            assert rollout[ours - 1].close_ms >= other.open_ms, f"missing in the closed loop: {other}"
            found["still in the trade before, in the closed loop"] += 1
            theirs += 1
    return found


def rollout_of(watch: Watch) -> list[ClosedTrade]:
    return [trade for period in watch.replayed for trade in period.trades]


def in_order(results: pd.DataFrame) -> pd.DataFrame:
    results = results.sort_values("close_date").reset_index(drop=True)
    # The backtester closes what is open when its data end; the rollout is still in it.
    return results.iloc[:-1] if results["exit_reason"].iloc[-1] == "force_exit" else results


def test_columns_alone_with_shorts_and_leverage_are_simulated_whole(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch(monkeypatch, leaves=0.05)
    run = FreqtradeBacktest(tmp_path, market, **of("ReadsActions"))
    run.run()
    results = in_order(run.trades())
    found = explained(rollout_of(watch), as_closed_trades(results), lambda at: None)
    print(f"\nReadsActions: named {named(caplog) or 'nothing'}; {dict(found)}")
    assert named(caplog) == set()
    assert set(found) == {"the same"}
    assert found["the same"] > 20
    assert set(results["leverage"]) == {3.0}
    assert set(results["is_short"]) == {True, False}


def test_what_buys_more_and_moves_its_stop_is_named_and_explains_every_difference(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch(monkeypatch, leaves=0.05)
    run = FreqtradeBacktest(tmp_path, market, **of("BuysMore"))
    run.run()
    results = in_order(run.trades())

    def cause(at: int) -> str | None:
        trade = results.iloc[at]
        entries = sum(order["ft_is_entry"] for order in trade["orders"])
        if entries > 1:
            return "bought more"
        return "the stop moved" if trade["exit_reason"] == "trailing_stop_loss" else None

    found = explained(rollout_of(watch), as_closed_trades(results), cause)
    print(f"\nBuysMore: named {named(caplog)}; {dict(found)}")
    assert named(caplog) == {"adjust_trade_position", "custom_stoploss"}
    assert min(found["bought more"], found["the stop moved"]) > 0
    assert found["the same"] > 20


def test_profit_that_is_taken_beside_the_policy_is_named_and_explains_every_difference(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    verdicts = judge(tmp_path, market, monkeypatch, "random", leaves=0.02, **of("TakesProfit"))
    results = in_order(verdicts.results)
    found = explained(
        verdicts.rollout,
        policys_trades(results),
        lambda at: "profit was taken" if results["exit_reason"].iloc[at] == "take_profit" else None,
    )
    print(f"\nTakesProfit: named {named(caplog)}; {dict(found)}")
    assert named(caplog) == {"custom_exit"}
    assert found["profit was taken"] > 1
    assert found["the same"] > 5
