"""What a command that runs freqtrade in a checkout of the project checks before it does."""

from collections.abc import Sequence
from pathlib import Path

from freqtrade.configuration.load_config import load_from_files
from freqtrade.exceptions import OperationalException

from mtfscalper.freqai.start_checks import checked_settings
from mtfscalper.offline import OFFLINE_USER_DATA, ReplayError
from mtfscalper.offline.candles import CandleStore
from mtfscalper.offline.freqtrade_command import MAIN_CONFIG
from mtfscalper.offline.synthetic import TIMEFRAME_MINUTES
from mtfscalper.settings import Settings


def find_root(start: Path, command: str) -> Path:
    """Find the project's root: ``start`` or the nearest folder above it that holds the main configuration.

    :param start: folder to begin with
    :param command: what the user typed
    :raises ReplayError: when no folder holds it
    """
    for folder in (start, *start.parents):
        if (folder / MAIN_CONFIG).is_file():
            return folder
    raise ReplayError(
        f"{command}: there is no {MAIN_CONFIG} in {start} or above it; the command runs in a checkout of the "
        f"project. Change into it first: cd <checkout>, then {command}."
    )


def settings_of_files(files: Sequence[Path], root: Path, command: str) -> Settings:
    """The settings that the configuration files make together.

    :param files: later ones override earlier ones
    :param root: the checkout
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
