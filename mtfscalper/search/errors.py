"""What a study refuses."""

from __future__ import annotations


class StudyError(RuntimeError):
    """A study cannot be. One line: what, where, received, accepted, remedy."""


class ChangedError(StudyError):
    """A study is no longer what it began as: what goes on would be measured otherwise than what was."""


class NotFollowedError(StudyError):
    """What was asked for is deployed, and the bot that was to follow it does not."""
