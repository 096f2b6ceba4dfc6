"""A FreqAI backtest: columns for every row, and the trades the policy was told it makes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from freqai_runs import PAIR, FreqtradeBacktest, Watch, predictions
from parity.backtester import as_closed_trades

from mtfscalper.freqai.columns import ACTION_COLUMN, EXIT_COLUMN, LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN
from mtfscalper.trading.actions import Action


def test_trained_end_to_end_every_row_has_its_prediction(tmp_path: Path, market: Path, monkeypatch) -> None:
    watch = Watch(monkeypatch, policy="trained")
    run = FreqtradeBacktest(tmp_path, market)
    rows = run.run()
    assert watch.trained == [PAIR] * 3
    assert not list(run.models.rglob("best_model.zip"))
    assert len(rows) == 3 * 288
    assert not predictions(rows).isna().any(axis=None)
    assert (rows["do_predict"] == 1).all()
    assert rows[ACTION_COLUMN].isin([int(action) for action in Action]).all()
    for column in (LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN, EXIT_COLUMN):
        assert rows[column].between(0, 1).all()
    gated = rows["classic_long"] + rows["classic_short"]
    assert gated.sum() > 20
    assert (rows.loc[rows["classic_long"] == 0, LONG_ENTER_COLUMN] == 0).all()
    assert (rows.loc[rows["classic_long"] == 1, LONG_ENTER_COLUMN] > 0).all()


RULES: dict[str, dict[str, Any]] = {
    "the strategy's own": {},
    "tight stop and ROI": {"stoploss": -0.006, "minimal_roi": {0: 0.008, 30: 0.004}},
    "trailing stop, leverage": {
        "stoploss": -0.02,
        "minimal_roi": {},
        "trailing_stop": True,
        "trailing_stop_positive": 0.004,
        "trailing_stop_positive_offset": 0.008,
        "leverage_used": 2.0,
    },
}


@pytest.mark.parametrize(
    ("mode", "rules", "reasons"),
    [
        ("gated", "the strategy's own", {"exit_signal", "roi", "stop_loss"}),
        ("gated", "tight stop and ROI", {"exit_signal", "roi", "stop_loss"}),
        ("gated", "trailing stop, leverage", {"exit_signal", "trailing_stop_loss"}),
        ("classic", "the strategy's own", {"exit_signal", "roi", "stop_loss"}),
        ("classic", "trailing stop, leverage", {"exit_signal", "trailing_stop_loss"}),
        ("agent", "the strategy's own", {"exit_signal", "max_duration", "stop_loss"}),
    ],
)
def test_the_replayed_trades_are_those_of_freqtrades_backtester(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, mode: str, rules: str, reasons: set[str]
) -> None:
    watch = Watch(monkeypatch)
    run = FreqtradeBacktest(tmp_path, market, freqai={"rl_config": {"entry_mode": mode}})
    for name, value in RULES[rules].items():
        setattr(run.strategy, name, value)
    run.run()
    results = run.trades()
    *judged, forced = as_closed_trades(results.sort_values("close_date"))
    replayed = [trade for period in watch.replayed for trade in period.trades]
    account = watch.replayed[-1].account
    if forced.exit_reason != "force_exit":
        judged.append(forced)
        assert account.side == 0
    else:
        # The backtester closes what is open when its data end; the account of the replay is still in it.
        assert account.side == (-1 if forced.is_short else 1)
        assert account.open_rate == forced.open_rate
    assert len(judged) > 10
    assert {trade.is_short for trade in judged} == {True, False}
    # Nothing of this passes vacuously: every kind of exit, funding, trades handed on from period to period.
    assert {trade.exit_reason for trade in judged} >= reasons
    assert any(period.account.side for period in watch.replayed[:-1])
    assert results["funding_fees"].abs().max() > 100
    assert [trade._replace(profit_ratio=0.0) for trade in replayed] == [t._replace(profit_ratio=0.0) for t in judged]
    np.testing.assert_allclose(
        [trade.profit_ratio for trade in replayed], [trade.profit_ratio for trade in judged], rtol=0, atol=1e-12
    )
