"""Watching what really runs, and saying whether it is what was asked for."""
