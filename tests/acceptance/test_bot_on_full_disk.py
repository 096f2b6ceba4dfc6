"""A bot whose disk is really full goes on deciding, says so once, and saves what it could not once there is room."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.bots import DONE_TRAINING, FIRST_START, INTERRUPTED, running_bot
from faults.disks import free_bytes, leave, small_disk
from faults.homes import PAIR, Home

pytestmark = pytest.mark.acceptance

SETTINGS = {"live_retrain_hours": 1}
# Room for a small file, and for no policy.
LEFT_BYTES = 4096
N_CANDLES = 3
UNSAVED = f"the policy of {PAIR} cannot be written ("
SAVED = f"the policy of {PAIR} has been written."


def warned(output: str, words: str) -> int:
    return sum(words in line for line in output.splitlines() if " - WARNING - " in line)


def test_a_bot_on_a_full_disk_decides_by_what_it_trained_and_saves_it_once_there_is_room(
    tmp_path: Path, market: Path
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        home = Home(tmp_path / "home", market, "", user=disk / "user")
        with running_bot(home, FIRST_START, SETTINGS) as bot:
            bot.decide(2)
            n_trained = bot.process.output.count(DONE_TRAINING)
            leave(disk, LEFT_BYTES)
            assert free_bytes(disk) <= LEFT_BYTES
            # Its next training is due.
            bot.clock.next_candle(13)
            bot.await_output(DONE_TRAINING, n_trained + 1)
            bot.await_output(UNSAVED)
            assert len(bot.decide(N_CANDLES)) == N_CANDLES
            assert SAVED not in bot.process.output
            (disk / "filler").unlink()
            # It is saved with the next training.
            bot.clock.next_candle(13)
            bot.await_output(SAVED)
            assert len(bot.decide(N_CANDLES)) == N_CANDLES
            ended = bot.stop()
        print(ended.output[-6000:])
        assert ended.status == INTERRUPTED
        assert warned(ended.output, UNSAVED) == 1
        # The health file's own, once; of a policy and the history there is none.
        assert ended.output.count("Traceback") == warned(ended.output, "The bot's health cannot be written") <= 1
        assert home.strays() == []
        # What was saved late is whole: nothing is trained anew.
        with running_bot(home, bot.clock.now(), SETTINGS) as again:
            assert again.next_frame()["do_predict"].iloc[-1] == 1
            again.stop()
            output = again.process.output
        assert DONE_TRAINING not in output
        assert "is not used" not in output
        assert "was not sealed" not in output
