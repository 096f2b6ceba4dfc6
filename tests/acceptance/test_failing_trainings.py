"""``freqtrade trade`` with a pair whose trainings fail and a training that is killed: it trades on and stays quiet."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_dry_run import HELPERS, OVERLAY, ROOT, STRATEGIES

from mtfscalper.freqai.health import read_health
from mtfscalper.monitoring.bot_status import Level, Status
from mtfscalper.offline.stage import Stage, StagedBot, StageHome
from mtfscalper.offline.synthetic import write_market

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.name == "nt", reason="processes are killed as groups here"),
]

PAIR, FAILING = "BTC/USDT:USDT", "ETH/USDT:USDT"
START = datetime(2024, 10, 15, 8, 30, tzinfo=UTC)
HOURS = 5
EXPIRATION_HOURS = 3


def changed(where: str) -> dict[str, Any]:
    freqai = OVERLAY["freqai"]
    rl = {**freqai["rl_config"], "live_training": where}
    return OVERLAY | {
        "max_open_trades": 2,
        "freqai": {**freqai, "live_retrain_hours": 1, "expiration_hours": EXPIRATION_HOURS, "rl_config": rl},
    }


class Killer:
    """Kills the process of the first training that follows some hours, and no other."""

    def __init__(self, stage: Stage, bot: StagedBot, after: datetime) -> None:
        self._stage, self._bot, self._after = stage, bot, after
        self.killed: list[int] = []

    def look(self) -> None:
        if self.killed or self._stage.clock.now() < self._after:
            return
        for process in psutil.Process(self._bot.process.pid).children():
            if "spawn_main" in " ".join(process.cmdline()):
                process.kill()
                self.killed.append(process.pid)
                return


def test_the_bot_goes_on_and_says_once_what_fails(tmp_path: Path) -> None:
    home, market = StageHome(tmp_path / "bot"), tmp_path / "market"
    write_market(
        market, start=datetime(2024, 9, 1, tzinfo=UTC), stop=datetime(2024, 10, 17, tzinfo=UTC), pairs=[PAIR, FAILING]
    )
    config = tmp_path / "bot.json"
    config.write_text(json.dumps(changed("process")))
    files = [ROOT / "configs" / "config_rl_hybrid.json", config]
    with Stage(home, market, START, None) as stage:
        files.append(stage.write_config(files, [PAIR, FAILING], {}))
        command = stage.command(
            files,
            strategy="MtfScalper_RL_Hybrid",
            strategy_path=STRATEGIES,
            freqaimodel="FailingModel",
            freqaimodel_path=HELPERS,
        )
        bot = stage.start_bot(command, ROOT, {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
        killer = Killer(stage, bot, START + timedelta(hours=2))
        try:
            assert bot.run_until(START + timedelta(hours=HOURS), killer.look), home.log.read_text()
            status = Status.of(home.folder / "models" / "dry_run")
            left = psutil.Process(bot.process.pid).children(recursive=True)
        finally:
            ended = bot.stop()
    log = home.log.read_text()
    print(f"\n{len(log.splitlines()) / HOURS:.0f} log lines an hour")
    assert ended in (0, 130), log
    # The log's lines are broken at the width of a terminal.
    said = " ".join(log.split())

    # The failing pair: one traceback, one message, a growing pause.
    assert log.count("Traceback (most recent call last)") == 2
    tried = re.findall(rf"{FAILING}: training fails \([^)]*\); failures since [^.]*: (\d+)\.", said)
    assert 9 <= len(set(tried)) <= 16
    assert said.count(f"Sending rpc strategy_msg: {FAILING}: training fails") == 1
    assert said.count(f"Sending rpc strategy_msg: {FAILING}: its policy is older than freqai.expiration_hours") == 1
    # The killed training: named, and made up for.
    [pid] = killer.killed
    assert f"the process of the training ({pid}) was killed by signal 9, usually because the machine ran out of" in said
    assert said.count(f"Sending rpc strategy_msg: {PAIR}: training fails") == 1
    assert said.count(f"Sending rpc strategy_msg: {PAIR}: trained again; failures since") == 1
    assert len(re.findall(rf"Done training {PAIR}", log)) >= HOURS - 3

    # It passed over both pairs until the end.
    health = read_health(home.folder / "models" / "dry_run")
    assert health.stopped_at > 0
    for pair in (PAIR, FAILING):
        candle = datetime.fromtimestamp(health.pairs[pair].candle_at, UTC)
        assert candle >= START + timedelta(hours=HOURS) - timedelta(minutes=15)
    assert status.level is Level.CRITICAL
    assert sorted(status.health.troubles) == [f"expired {FAILING}", f"training {FAILING}"]
    # Nothing is left of trainings that are done.
    _, alive = psutil.wait_procs(left, timeout=30)
    # One that has ended and that nobody has asked for its status yet is no process any more.
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
