"""What a report, an audit and a study do with a run is no run of the user's, and is not told as one."""

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


@contextmanager
def only_what_goes_wrong() -> Iterator[None]:
    """Let everybody tell of warnings and errors alone, freqtrade too, which sets levels as it reads a config."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
