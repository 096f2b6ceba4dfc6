"""Puts this directory on the path, makes property tests repeatable and quick, and lets Ctrl-C end them."""

import gc
import os
import signal

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Of the processes that tests start, which set threads of their own where that is what they are tested for.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell in the background ignores Ctrl-C, and so would the commands that are started here and ended by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Of what is killed the kernel keeps every byte that was written: only a power cut would lose one, and no test cuts the
# power. Thousands of small files would wait for the disk one by one. What is no open file is refused as ever.
os.fsync = os.fstat


def pytest_collection_finish() -> None:
    """What is imported by now stays: half a second to look through each time Python looks for garbage."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Nets this small gain nothing from threads, and take many times as long where other tests want the processors.

    A FreqAI model sets what its config asks for (``cpu_count``), for its whole process: that must not be what the next
    test computes with.
    """
    torch.set_num_threads(1)
