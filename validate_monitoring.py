#!/usr/bin/env python3
"""Run a short training through the freqtrade command and check that what was configured is what ran."""

import signal
import sys
from pathlib import Path

from mtfscalper.monitoring.validate import main

if __name__ == "__main__":
    # Treated as Ctrl-C, so that freqtrade does not outlive this program.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(root=Path(__file__).resolve().parent))
