"""A strategy that removes rows after freqai.start is stopped before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from freqai_runs import OTHER_PAIR, PAIR, FreqtradeBacktest, Watch
from freqtrade.exceptions import OperationalException

STRATEGIES = Path(__file__).parent / "strategies"


def run_of(
    home: Path, market: Path, monkeypatch: pytest.MonkeyPatch, after: Any, **overlay: Any
) -> tuple[FreqtradeBacktest, Watch, list[int]]:
    """A backtest of a strategy that does something with its rows once FreqAI has answered, and how many it had."""
    freqai = {"rl_config": {"entry_mode": "auto"}}
    run = FreqtradeBacktest(
        home, market, strategy="ColumnOnlyStrategy", strategy_path=STRATEGIES, freqai=freqai, **overlay
    )
    kind, seen = type(run.strategy), list[int]()

    def populate_indicators(self: Any, dataframe: pd.DataFrame, metadata: dict[str, Any]) -> Any:
        seen.append(len(dataframe))
        dataframe["mean"] = dataframe["close"].rolling(30).mean()
        return after(self.freqai.start(dataframe, metadata, self))

    monkeypatch.setattr(kind, "populate_indicators", populate_indicators)
    return run, Watch(monkeypatch), seen


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (pd.DataFrame.dropna, "971 of 1000 candles"),
        (lambda rows: rows[rows["mean"] > 0].reset_index(drop=True), "971 of 1000 candles"),
        (lambda rows: None, "None"),
    ],
)
def test_rows_that_are_removed_stop_the_run_before_the_training(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, after: Any, said: str
) -> None:
    run, watch, seen = run_of(tmp_path, market, monkeypatch, after)
    with pytest.raises(
        OperationalException, match=rf"^ColumnOnlyStrategy\.populate_indicators gives back {said} for .*; accepted: .*"
    ):
        run.run()
    assert watch.trained == []
    # The look at it takes few candles.
    assert seen.count(1_000) == 1


@pytest.mark.parametrize("fails", [False, True])
def test_others_run_and_one_that_cannot_be_looked_at_so_too(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    def after(rows: pd.DataFrame) -> pd.DataFrame:
        if fails and len(rows) == 1_000:
            raise RuntimeError("too few")
        return rows.fillna(0.0)

    run, watch, seen = run_of(tmp_path, market, monkeypatch, after)
    run.run()
    assert len(watch.trained) == 3
    assert seen.count(1_000) == 1


def test_each_pair_is_looked_at_before_it_is_trained(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def after(rows: pd.DataFrame) -> pd.DataFrame:
        if len(rows) == 1_000:
            looks.append(len(rows))
        return rows.dropna() if len(looks) == 2 else rows

    run, watch, _ = run_of(tmp_path, market, monkeypatch, after, exchange={"pair_whitelist": [PAIR, OTHER_PAIR]})
    with pytest.raises(OperationalException, match=f"971 of 1000 candles for {OTHER_PAIR}"):
        run.run()
    assert set(watch.trained) <= {PAIR}
