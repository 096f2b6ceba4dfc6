#!/usr/bin/env python3
"""Run a short training through the freqtrade command and check that what was configured is what ran."""

import logging
import signal
import sys
from pathlib import Path

try:
    from mtfscalper.monitoring.validate import main
except ImportError as error:
    sys.exit(f"error: {error}; run make setup and then .venv/bin/python validate_monitoring.py")

if __name__ == "__main__":
    # What freqtrade has to say of a configuration is said here in one sentence.
    logging.getLogger("freqtrade").setLevel(logging.CRITICAL + 1)
    # Treated as Ctrl-C, so that freqtrade does not outlive this program.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(root=Path(__file__).resolve().parent))
