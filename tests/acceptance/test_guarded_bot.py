"""``freqtrade trade`` with ``fallback``: the rules end the trades of unproven policies, and it says so."""

from __future__ import annotations

import json
import os
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from test_dry_run import HELPERS, OVERLAY, PAIR, ROOT, STRATEGIES

from mtfscalper.freqai.decision_record import bots_decisions
from mtfscalper.freqai.health import read_health
from mtfscalper.offline.stage import Stage, StageHome
from mtfscalper.offline.synthetic import write_market

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(os.name == "nt", reason="the bot is stopped by the signal of Ctrl-C, which Windows cannot send"),
]

START = datetime(2024, 10, 15, 8, 30, tzinfo=UTC)
HOURS = 2


def test_the_rules_end_its_trades_and_the_owner_is_told_once(tmp_path: Path) -> None:
    home, market = StageHome(tmp_path / "bot"), tmp_path / "market"
    write_market(market, start=datetime(2024, 9, 1, tzinfo=UTC), stop=datetime(2024, 10, 17, tzinfo=UTC), pairs=[PAIR])
    freqai = OVERLAY["freqai"]
    rl = {**freqai["rl_config"], "fallback": "classic", "max_trade_duration_candles": 8}
    guarded = {"live_retrain_hours": 0.5, "data_split_parameters": {"test_size": 0.2}, "rl_config": rl}
    config = tmp_path / "bot.json"
    config.write_text(json.dumps(OVERLAY | {"freqai": {**freqai, **guarded}}))
    files = [ROOT / "configs" / "config_rl_hybrid.json", config]
    with Stage(home, market, START, None) as stage:
        files.append(stage.write_config(files, [PAIR], {}))
        command = stage.command(
            files,
            strategy="MtfScalper_RL_Hybrid",
            strategy_path=STRATEGIES,
            freqaimodel="LivelyModel",
            freqaimodel_path=HELPERS,
        )
        bot = stage.start_bot(command, ROOT, {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
        try:
            assert bot.run_until(START + timedelta(hours=HOURS)), home.log.read_text()
        finally:
            bot.stop()
    log = home.log.read_text()
    assert log.count(f"Done training {PAIR}") >= 2, log
    # The log's lines are broken at the width of a terminal.
    said = " ".join(log.split())
    assert said.count(f"Sending rpc strategy_msg: {PAIR}: the rules end the policy's trades") == 1
    assert said.count(f"INFO - {PAIR}: the rules end the policy's trades") >= 1
    assert "fewer than 30 trades count as not beaten" in said or "made no trade on the candles that judge" in said

    # The policy wanted to leave, and was not heard.
    asked = [one for one in bots_decisions(home.decisions / "dry_run", "dry_run") if one.falls_back]
    assert any(one.probability > 0.5 for one in asked)
    assert not any(one.leave for one in asked)
    with sqlite3.connect(home.database) as connection:
        reasons = [reason for (reason,) in connection.execute("SELECT exit_reason FROM trades WHERE is_open = 0")]
    assert reasons
    assert set(reasons) <= {"max_duration", "stop_loss", "roi"}

    health = read_health(home.folder / "models" / "dry_run")
    assert health.pairs[PAIR].falls_back is True
    assert list(health.troubles) == [f"fallback {PAIR}"]
