"""A reward term of the user's through FreqAI: paid in training, and part of what a policy is made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from freqai_runs import IDENTIFIER, FreqtradeBacktest, Watch
from freqtrade.configuration.config_validation import validate_config_schema
from freqtrade.exceptions import OperationalException

TERM = "def calm(xp, settings, transition):\n    return -xp.where(transition.in_trade, 1.0, 0.0)\n"
FREQAI: dict[str, Any] = {"rl_config": {"model_reward_parameters": {"terms": {"my_terms:calm": 0.2}}}}


def test_a_term_of_the_users_is_paid_and_an_edit_of_it_trains_anew(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    (tmp_path / "my_terms.py").write_text(TERM)
    run = FreqtradeBacktest(tmp_path, market, freqai=FREQAI)
    validate_config_schema(run.backtesting.config)
    run.run()
    assert len(watch.trained) == 3
    reports = [json.loads(path.read_text()) for path in run.models.rglob("training_report.json")]
    assert len(reports) == 3
    assert all(report["reward_terms"]["my_terms:calm"] < 0 for report in reports)
    FreqtradeBacktest(tmp_path, market, freqai=FREQAI).run()
    assert len(watch.trained) == 3
    (tmp_path / "my_terms.py").write_text(TERM.replace("1.0", "2.0"))
    FreqtradeBacktest(tmp_path, market, freqai=FREQAI).run()
    assert len(watch.trained) == 6


def test_a_term_that_is_not_there_stops_the_run_before_any_candle_is_used(tmp_path: Path, market: Path) -> None:
    with pytest.raises(OperationalException, match=r"model_reward_parameters\.terms names 'my_terms:calm', and import"):
        FreqtradeBacktest(tmp_path, market, freqai=FREQAI)
    assert not (tmp_path / "models" / IDENTIFIER).exists()
