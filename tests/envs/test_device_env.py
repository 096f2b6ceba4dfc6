"""Environments on a device: equal to batches of NumPy's, and nothing in a step that the host would have to wait for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import candle_table, make_settings, make_tape
from device_equivalence import Tapes, assert_equal_to_batches
from equivalence import OF_CANDLES, all_rules_settings, eventful_tape

ENTRY_MODES = ("classic", "gated", "agent")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_environments_on_a_device_equal_a_batch(entry_mode: str, random_start: bool) -> None:
    settings = all_rules_settings(entry_mode, random_start=random_start, max_drawdown_ratio=0.05)
    seen = assert_equal_to_batches([eventful_tape()], settings, 8, 300)
    assert min(seen[kind] for kind in ("entered", "cut_off", "terminated", "exit_signal", "stop_loss", "roi")) > 0
