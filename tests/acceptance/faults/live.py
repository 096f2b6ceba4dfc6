"""A dry-run bot of the helpers of ``tests/freqai``, in a process of its own."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from freqai_runs import PAIR, Watch
from live_bot import LiveBot

from mtfscalper.freqai.columns import PREDICTION_COLUMNS

N_CANDLES = 4


def first_session(home: str, market: str) -> None:
    """Start a bot without a policy, let it train one and decide with it.

    :param home: its user directory
    :param market: the candles
    """
    with _bot(home, market) as bot:
        bot.analyse()
        bot.train()
        bot.analyse()


def restart(home: str, market: str, rows: str) -> None:
    """Start it again at the same candle, let it train if it has no policy that it may use, and let some candles close.

    :param rows: the file that gets what was decided on the last candles; ``trained``, whether it trained; and
        ``history``, on how many candles it remembers to have decided
    """
    with _bot(home, market) as bot:
        bot.analyse()
        trains = not bot.model.dd.pair_dict[PAIR]["model_filename"]
        if trains:
            bot.train()
        decided = []
        for _ in range(N_CANDLES):
            bot.next_candle()
            decided.append(bot.analyse().tail(1))
        columns = ["date", *PREDICTION_COLUMNS, "do_predict", "enter_long", "enter_short"]
        frame = pd.concat(decided, ignore_index=True).reindex(columns=columns)
        history = int((bot.model.dd.historic_predictions[PAIR]["do_predict"] == 1).sum())
        frame.assign(trained=trains, history=history).to_feather(rows)


@contextmanager
def _bot(home: str, market: str) -> Iterator[LiveBot]:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        Watch(monkeypatch, policy="decisive")
        # A policy that decides about signals alone has nothing to say about most candles.
        bot = LiveBot(Path(home), Path(market), monkeypatch, freqai={"rl_config": {"entry_mode": "agent"}})
        yield bot
        bot.model.shutdown()
