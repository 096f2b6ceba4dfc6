"""Exceptions on their way from one process to another."""

from __future__ import annotations

import pickle
import traceback
from typing import NamedTuple

import cloudpickle


class SentError(NamedTuple):
    """An exception that can be pickled, and its traceback in words."""

    error: Exception
    words: str

    @classmethod
    def of(cls, error: Exception) -> SentError:
        """An exception that was caught, which loses its traceback and whatever it came from.

        One of somebody's own that cannot be sent becomes a RuntimeError of its words.
        """
        words = "".join(traceback.format_exception(error)).rstrip()
        error.__traceback__ = error.__cause__ = error.__context__ = None
        try:
            pickle.loads(cloudpickle.dumps(error))
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return cls(error, words)
