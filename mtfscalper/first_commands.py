"""``mtfscalper init`` and ``mtfscalper completion``: what a new installation begins with."""

import argparse
import sys
from pathlib import Path

SHELLS = ("bash", "zsh", "tcsh", "fish")


def init_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``init``."""
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path(), metavar="FOLDER", help="where to (default: the working one)"
    )


def init(args: argparse.Namespace) -> int:
    """Copy what is missing, never over what exists, and say what to run next."""
    from rich.console import Console

    from mtfscalper.offline import OWN_CANDLES_DAYS
    from mtfscalper.offline.freqtrade_command import MAIN_CONFIG, runnable
    from mtfscalper.offline.starter import copy_starter, show_starter
    from mtfscalper.offline.synthetic import TIMEFRAME_MINUTES

    console = Console(highlight=False)
    show_starter(copy_starter(args.folder), args.folder, console)
    folder = args.folder.absolute()
    console.out("\nNext:")
    if folder != Path.cwd():
        console.out(f"  {runnable(['cd', str(args.folder)])}")
    console.out(f"  {runnable(['mtfscalper', 'demo'], folder)}")
    download = ["freqtrade", "download-data", "--config", str(MAIN_CONFIG), "--timeframes", *TIMEFRAME_MINUTES]
    console.out(f"  {runnable([*download, '--days', str(OWN_CANDLES_DAYS)], folder)}")
    return 0


def completion_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``completion``."""
    parser.add_argument("shell", choices=SHELLS, help="whose script is printed")


def print_completion(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Print the script by which a shell completes the command.

    :param parser: of the whole command line
    """
    try:
        import shtab
    except ImportError as error:
        print(f"error: {error}; completion needs shtab; remedy: pip install shtab", file=sys.stderr)
        return 2
    for each in _with_subparsers(parser):
        for action in each._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell=args.shell))
    return 0


def _with_subparsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    subparsers = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(each for choices in subparsers for each in choices.values())]
