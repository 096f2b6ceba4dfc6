"""Puts this directory on the path, for ``builders``, and makes property tests repeatable."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
