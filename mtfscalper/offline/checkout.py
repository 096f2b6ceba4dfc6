"""Where a command that runs freqtrade does so, and what it checks before."""

from collections.abc import Sequence
from pathlib import Path

from freqtrade.configuration.load_config import load_from_files
from freqtrade.exceptions import OperationalException
from rich.console import Console

from mtfscalper.freqai.start_checks import checked_settings
from mtfscalper.offline import OFFLINE_USER_DATA, ReplayError
from mtfscalper.offline.candles import CandleStore
from mtfscalper.offline.freqtrade_command import MAIN_CONFIG
from mtfscalper.offline.starter import copy_starter, show_starter
from mtfscalper.offline.synthetic import TIMEFRAME_MINUTES
from mtfscalper.settings import Settings


def find_root(start: Path) -> Path | None:
    """Find the project's folder: ``start`` or the nearest folder above it that holds the main configuration.

    :param start: folder to begin with
    """
    for folder in (start, *start.parents):
        if (folder / MAIN_CONFIG).is_file():
            return folder
    return None


def root_or_new(here: Path, console: Console) -> Path:
    """The project's folder; where there is none, ``here`` becomes one, as by ``mtfscalper init``.

    :raises ReplayError: when the files cannot be written
    """
    root = find_root(here)
    if root is not None:
        return root
    copied = copy_starter(here)
    console.out(f"There is no {MAIN_CONFIG} in {here} or above it. Put here, as by mtfscalper init:")
    show_starter(copied, Path(), console)
    return here


def settings_of_files(files: Sequence[Path], root: Path, command: str) -> Settings:
    """The settings that the configuration files make together.

    :param files: later ones override earlier ones
    :param root: the project's folder
    :param command: what the user typed
    :raises ReplayError: for a file that is missing or no JSON, or a setting that would stop the run
    """
    for file in files:
        if not file.is_file():
            raise ReplayError(f"{command}: configuration {file} does not exist; check --config")
        try:
            load_from_files([str(file)])
        except OperationalException as error:
            raise ReplayError(f"{command}: configuration {file} cannot be read; check --config. {error}") from error
    try:
        config = load_from_files([str(file) for file in files])
        return checked_settings(config | {"user_data_dir": root / OFFLINE_USER_DATA})
    except OperationalException as error:
        raise ReplayError(f"{command}: {error}\nCheck --config.") from error


def check_pairs(store: CandleStore, pairs: Sequence[str], command: str) -> None:
    """Refuse pairs without the candles that the strategy needs.

    :param store: the candles there are
    :param command: what the user typed
    :raises ReplayError: naming what the directory has
    """
    for pair in pairs:
        missing = [timeframe for timeframe in TIMEFRAME_MINUTES if timeframe not in store.timeframes.get(pair, ())]
        if missing:
            raise ReplayError(
                f"{command}: {store.datadir} has no {', '.join(missing)} futures candles of {pair!r}; its pairs are "
                f"{', '.join(store.timeframes)}. Choose among them with --pairs, or download the candles with "
                f"`freqtrade download-data --pairs {pair} --timeframes {' '.join(TIMEFRAME_MINUTES)}`."
            )
