"""``mtfscalper train`` by its command line: the backtest after it trains nothing, and makes the trades of serial."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from test_commands import TRAINING
from two_pairs import Home, seen

pytestmark = pytest.mark.acceptance


def test_what_it_trained_side_by_side_is_traded_as_what_a_backtest_trains_in_turn(
    tmp_path: Path, two_pairs: tuple[Path, str]
) -> None:
    data, url = two_pairs
    home = Home(tmp_path / "train", url, data)
    before = home.models()
    planned = home.train("--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "4 policies to train, 0 reusable" in seen(planned.stdout)
    assert home.models() == before
    trained = home.train("--workers", "2")
    assert trained.returncode == 0, trained.stderr
    assert "4 policies trained" in seen(trained.stdout)
    assert "0 policies to train, 4 reusable" in seen(home.train("--dry-run").stdout)
    output, trades = home.backtest()
    assert TRAINING not in output
    in_turn = Home(tmp_path / "in turn", url, data)
    output, usual = in_turn.backtest()
    assert output.count(TRAINING) == 4
    assert len(usual) > 10
    pd.testing.assert_frame_equal(trades, usual)


def test_a_run_that_cannot_begin_ends_with_status_2(tmp_path: Path, two_pairs: tuple[Path, str]) -> None:
    home = Home(tmp_path, two_pairs[1], two_pairs[0])
    values = home.values()
    values["freqai"]["rl_config"]["batch_size"] = -1
    home.write(values)
    ran = home.train("--dry-run")
    assert ran.returncode == 2
    assert "batch_size is -1" in seen(ran.stderr)
