"""Puts this directory on the path, makes property tests repeatable, and gives each test one thread."""

import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Of the processes that tests start, which set threads of their own where that is what they are tested for.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Nets this small gain nothing from threads, and take many times as long where other tests want the processors.

    A FreqAI model sets what its config asks for (``cpu_count``), for its whole process: that must not be what the next
    test computes with.
    """
    torch.set_num_threads(1)
