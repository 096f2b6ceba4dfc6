"""What a report and an audit do with a run is no run of the user's, and is not told as one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


@contextmanager
def quiet(name: str, level: int) -> Iterator[None]:
    """Let a logger, and those below it, tell of a level and those above it alone."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def quiet_freqtrade() -> AbstractContextManager[None]:
    """Let freqtrade tell of errors alone."""
    return quiet("freqtrade", logging.ERROR)
