"""What a study refuses."""

from __future__ import annotations


class StudyError(RuntimeError):
    """A study cannot be. One line: what, where, received, accepted, remedy."""
