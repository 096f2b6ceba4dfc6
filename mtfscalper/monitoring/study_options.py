"""Options of the commands that look at a study. Read for every ``--help``, so that nothing large is imported."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT_PORT = 8090
TOKEN_VARIABLE = "MTFSCALPER_DASHBOARD_TOKEN"


def add_watch_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``mtfscalper study watch``."""
    _add_study_arguments(parser)
    parser.add_argument("--once", action="store_true", help="print the screen once, and end")


def add_dashboard_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``mtfscalper dashboard``."""
    _add_study_arguments(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; one that others reach needs a token (see below)"
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"0 for a free one (default: {DEFAULT_PORT})")
    parser.epilog = (
        f"Whoever looks must give the token that the environment variable {TOKEN_VARIABLE} holds. Where it holds none, "
        "only this machine is served."
    )


def _add_study_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--study", metavar="NAME", help="name of the study (default: the only one that there is)")
    parser.add_argument("--userdir", type=Path, default=Path("user_data"), help="freqtrade's (default: user_data)")
    parser.add_argument("--storage", metavar="URL", help="database of the study's trials (default: its journal file)")
