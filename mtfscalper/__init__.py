"""Reinforcement learning for freqtrade: one trade, the same in training, backtest, dry-run and live."""

import os

from mtfscalper.moved import watch_imports

__version__ = "0.1.0"

# Before torch is first imported, for its OpenMP (libgomp) reads this once. By default a thread without work spins for
# milliseconds, and beside other busy processes it takes the processor from the thread it waits for: on two loaded
# cores an update's minibatch took 376 ms instead of 12. So short a spin is as fast on an idle machine.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

watch_imports()
