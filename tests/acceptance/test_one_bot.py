"""One bot for an identifier, and two identifiers beside each other, by the command."""

from __future__ import annotations

import os
import re
import signal
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from faults.bots import FIRST_START, INTERRUPTED, Bot, running_bot
from faults.homes import IDENTIFIER, Home

pytestmark = pytest.mark.acceptance

RUNNING = "state to: RUNNING"
REFUSED = f"freqai.identifier is '{IDENTIFIER}', which a running bot uses: process "


def listening(bot: Bot) -> list[str]:
    """Where a bot and what it has started listen for others; its own processes talk through files."""
    leader = psutil.Process(bot.process.process.pid)
    connections = [
        found for process in (leader, *leader.children(recursive=True)) for found in process.net_connections("inet")
    ]
    # It talks to the exchange.
    assert connections
    return [str(found.laddr) for found in connections if found.status == psutil.CONN_LISTEN]


def test_a_second_bot_is_refused_with_the_process_of_the_first_and_starts_once_that_is_killed(
    tmp_path: Path, market: Path
) -> None:
    home = Home(tmp_path / "home", market, "")
    with running_bot(home, FIRST_START) as first:
        decided = first.decide(2)
        before = home.tree()
        with running_bot(home, FIRST_START) as second:
            ended = second.process.end()
        assert ended.status not in (0, INTERRUPTED)
        assert f"{REFUSED}{first.process.process.pid} (" in ended.output
        assert ended.output.count(REFUSED) == 1
        assert "Traceback" not in ended.output
        changed = {name for name, digest in home.tree().items() if before.get(name) != digest}
        assert not [name for name in changed if not name.endswith((".lock", "/locks"))], changed
        # The first does not notice.
        decided |= first.decide(1)
        assert len(decided) == 3
        os.killpg(first.process.process.pid, signal.SIGKILL)
        first.process.process.wait()
        with running_bot(home, FIRST_START) as third:
            third.await_output(RUNNING)
            assert REFUSED not in third.process.output


def test_of_two_bots_started_at_once_one_runs(tmp_path: Path, market: Path) -> None:
    home = Home(tmp_path / "home", market, "")
    with running_bot(home, FIRST_START) as one, running_bot(home, FIRST_START) as other:
        bots = [one, other]
        while all(bot.process.process.poll() is None for bot in bots):
            assert sum(RUNNING in bot.process.output for bot in bots) < 2
            if "state to: STOPPED" in one.process.output + other.process.output:
                break
        [refused] = [bot for bot in bots if REFUSED in bot.process.output]
        [runs] = [bot for bot in bots if bot is not refused]
        runs.await_output(RUNNING)
        told = re.search(rf"{re.escape(REFUSED)}(\d+) ", refused.process.output)
        assert told is not None
        assert int(told[1]) == runs.process.process.pid
        assert refused.process.end().status not in (0, INTERRUPTED)


def test_two_identifiers_of_one_user_directory_do_not_disturb_each_other(tmp_path: Path, market: Path) -> None:
    """From the first moment: neither the key nor a policy is there yet."""
    alone = Home(tmp_path / "alone", market, "")
    with running_bot(alone, FIRST_START) as bot:
        expected = bot.decide(3)
    home = Home(tmp_path / "home", market, "")
    # Policies of earlier trainings go as soon as there is a new one.
    settings = [{"identifier": name, "purge_old_models": 1} for name in ("one", "other")]
    with ExitStack() as stack:
        bots = [stack.enter_context(running_bot(home, FIRST_START, each)) for each in settings]
        decided = [bot.decide(3) for bot in bots]
        assert [address for bot in bots for address in listening(bot)] == []
        ended = [bot.stop() for bot in bots]
    assert [each.status for each in ended] == [INTERRUPTED] * 2
    for each in ended:
        assert "Traceback" not in each.output
        assert " - ERROR - " not in each.output
        # Long lines are broken.
        said = " ".join(each.output.split())
        assert said.count("Waiting for ") == said.count("which downloads candles into the same directory")
    assert all(any(values) for values in expected.values())
    assert decided == [expected, expected]
    # One key seals both, and each finds its own again.
    with ExitStack() as stack:
        for bot in [stack.enter_context(running_bot(home, FIRST_START, each)) for each in settings]:
            bot.await_output(RUNNING)
            assert "is not used" not in bot.process.output
            assert "was not sealed" not in bot.process.output


def test_two_user_directories_know_nothing_of_each_other(tmp_path: Path, market: Path) -> None:
    homes = [Home(tmp_path / name, market, "") for name in ("one", "other")]
    with ExitStack() as stack:
        for bot in [stack.enter_context(running_bot(home, FIRST_START)) for home in homes]:
            bot.await_output(RUNNING)
