"""Weeks of a bot's life, accelerated, with whatever goes wrong: ``make soak``.

A freqtrade bot trades two pairs on the replay exchange and retrains hourly; requests fail, candles are late, missing,
revised and absurd, the exchange is out for minutes, and the bot is killed where it stands. Nobody repairs anything. An
interrupted soak goes on where it was when it is started again in the same folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from soak.checks import Finding, findings
from soak.journal import Journal
from soak.plan import Plan, drawn
from soak.report import write_report
from tiny_rl import TINY_RL

from mtfscalper.offline.simulated_clock import SimulatedClock
from mtfscalper.offline.stage import Stage, StagedBot, StageHome
from mtfscalper.offline.synthetic import write_market

ROOT = Path(__file__).parents[3]
HELPERS = Path(__file__).parents[1] / "dry_run"
PAIRS = ["BTC/USDT:USDT", "ETH/USDT:USDT"]
START = datetime(2024, 9, 20, tzinfo=UTC)
MARKET = datetime(2024, 9, 1, tzinfo=UTC), datetime(2024, 11, 1, tzinfo=UTC)
# Of the bot's time.
MINUTES_BETWEEN_SAMPLES = 30
IDENTIFIER = "soak"

CONFIG: dict[str, Any] = {
    "max_open_trades": 2,
    "internals": {"process_throttle_secs": 60, "heartbeat_interval": 3600},
    "freqai": {
        "identifier": IDENTIFIER,
        "train_period_days": 2,
        "live_retrain_hours": 1,
        "expiration_hours": 4,
        "activate_tensorboard": False,
        "rl_config": {**TINY_RL, "vec_env": "batched", "entry_mode": "agent"},
    },
}


class Soak:
    """A soak in a folder.

    :ivar journal: what it has seen
    """

    def __init__(self, folder: Path, plan: Plan, seed: int, say: Callable[[str], None] = print) -> None:
        """
        :param folder: taken as an interrupted soak left it
        :param seed: of the faults
        """
        self._folder, self._plan, self._seed, self._say = folder, plan, seed, say
        self.home, self.journal = StageHome(folder / "user"), Journal(folder)
        self._market = folder / "market"
        self._next_sample = plan.start

    def run(self) -> None:
        """Run it to its end.

        :raises RuntimeError: when a bot ends by itself
        """
        write_market(self._market, start=MARKET[0], stop=MARKET[1], pairs=PAIRS)
        start = SimulatedClock(self.home.clock).now() if self.home.clock.exists() else self._plan.start
        if start > self._plan.start:
            # The one that ran when the soak was interrupted.
            self.journal.event("kill", start)
        with Stage(self.home, self._market, start, None, self._plan.rules, self._seed) as stage:
            command = self._command(stage)
            for end in self._plan.ends:
                if end.at > start:
                    self._live(stage, command, end.at, end.kind)
                    stage.clock.jump_to(stage.clock.now() + end.down)
            self._live(stage, command, self._plan.stop, "stop")
        self.journal.event("done", self._plan.stop)

    def _command(self, stage: Stage) -> list[str]:
        own = self._folder / "soak.json"
        own.write_text(json.dumps(CONFIG), encoding="utf-8")
        files = [ROOT / "configs" / "config_rl_hybrid.json", own]
        # Without the parameters that a hyperopt may have left beside it.
        strategies = self._folder / "strategies"
        strategies.mkdir(exist_ok=True)
        shutil.copy(ROOT / "strategies" / "MtfScalper_RL_Hybrid.py", strategies)
        return stage.command(
            [*files, stage.write_config(files, PAIRS, {})],
            strategy="MtfScalper_RL_Hybrid",
            strategy_path=strategies,
            freqaimodel="LivelyModel",
            freqaimodel_path=HELPERS,
        )

    def _live(self, stage: Stage, command: list[str], until: datetime, kind: str) -> None:
        """Let a bot live until a moment, and end it: in the middle of whatever it does, if it is killed."""
        began = stage.clock.now()
        self.journal.event("start", began)
        bot = stage.start_bot(command, self._folder, {"OMP_NUM_THREADS": "1"})
        try:
            if kind == "kill":
                self._watch(stage, bot, until)
            else:
                self._end_if_dead(stage, bot.run_until(until, lambda: self._sample(stage, bot)))
                bot.stop()
        finally:
            bot.kill()
            stage.clock.hold()
        now = stage.clock.now()
        self.journal.event(kind, now)
        self.journal.gather(self.home.decisions)
        self._say(f"{now:%Y-%m-%d %H:%M} {kind} after {(now - began).total_seconds() / 3600:.1f} h")

    def _watch(self, stage: Stage, bot: StagedBot, until: datetime) -> None:
        # The limit lies later: the bot is not held at a quiet place before it is killed.
        stage.clock.run_until(until + timedelta(hours=1))
        while stage.clock.now() < until:
            self._end_if_dead(stage, bot.process.poll() is None)
            self._sample(stage, bot)
            # True time: the clock has nothing to wait on but its limit, where a bot stands at a quiet place, and this
            # one is to be met wherever it is. How often is looked decides nothing.
            time.sleep(0.01)

    def _end_if_dead(self, stage: Stage, lives: bool) -> None:
        if not lives:
            self.journal.event("ended", stage.clock.now())
            log = self.home.log.read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"the bot ended by itself at {stage.clock.now()}:\n{log[-4000:]}")

    def _sample(self, stage: Stage, bot: StagedBot) -> None:
        now = stage.clock.now()
        if now < self._next_sample:
            return
        self._next_sample = now + timedelta(minutes=MINUTES_BETWEEN_SAMPLES)
        try:
            process = psutil.Process(bot.process.pid)
            figures = {
                "rss": process.memory_info().rss / 2**20,
                "threads": process.num_threads(),
                "handles": process.num_handles() if os.name == "nt" else process.num_fds(),
                "children": len(process.children(recursive=True)),
            }
        except psutil.NoSuchProcess:
            return
        models = self.home.folder / "models" / IDENTIFIER
        history = models / "historic_predictions.pkl"
        self.journal.sample(
            now,
            pid=bot.process.pid,
            log=self.home.log.stat().st_size / 2**20,
            folders=len(list(models.glob("sub-train-*"))),
            history=history.stat().st_size / 2**20 if history.exists() else 0.0,
            **figures,
        )


def main() -> int:
    """Run a soak from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "user_data" / "offline" / "soak")
    parser.add_argument("--hours", type=float, default=672.0, help="of the bot's time (default: four weeks)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--unbroken", action="store_true", help="nothing ends the bot: how memory grows in less time than a whole soak"
    )
    args = parser.parse_args()
    plan = drawn(START, args.hours, args.seed, is_unbroken=args.unbroken)
    soak = Soak(args.folder, plan, args.seed, lambda text: print(text, flush=True))
    began = time.monotonic()
    try:
        soak.run()
    except KeyboardInterrupt:
        print(f"Interrupted; it goes on with: make soak SOAK_ARGS='--folder {args.folder}'")
        return 130
    found = findings(soak.home, soak.journal, plan, PAIRS)
    print(f"{args.hours:g} simulated hours in {(time.monotonic() - began) / 60:.0f} minutes of this start")
    return conclude(args.folder, found, soak, plan)


def conclude(folder: Path, found: list[Finding], soak: Soak, plan: Plan) -> int:
    """Write the report, and print what was found."""
    path = write_report(folder, found, soak.home, soak.journal, plan)
    for finding in found:
        print(f"{'ok  ' if finding.is_good else 'BAD '} {finding.name}: {finding.text}")
    print(f"report: {path}")
    return 0 if all(finding.is_good for finding in found) else 1


if __name__ == "__main__":
    sys.exit(main())
