"""A strategy and a FreqAI model that stop at a known place until a file appears, so that another run can overtake them.

They also write down the columns of the last frame. Where nothing is named in the environment, they do neither.
"""

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.persistence import Trade
from freqtrade.worker import Worker
from MtfScalper_RL_Hybrid import MtfScalper_RL_Hybrid
from pandas import DataFrame
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper.freqai.model import MtfScalperFreqaiModel
from mtfscalper.strategy import LONG_SIGNAL, PREDICTION_COLUMNS, SHORT_SIGNAL

# Names of environment variables. A folder in which a process leaves a file as it waits, and waits for the file "go".
WAITS_IN_FIRST_EXIT = "FAULTS_WAITS_IN_FIRST_EXIT"
WAITS_IN_TRAINING = "FAULTS_WAITS_IN_TRAINING"
# Which training of the run that is, from 1.
TRAINING_NUMBER = "FAULTS_TRAINING_NUMBER"
# The file of a view's frame, and the folder of a bot's, one for each analysis.
FRAME, FRAMES = "FAULTS_FRAME", "FAULTS_FRAMES"
# A file: while it is there a bot stays where it sleeps between two looks at the market, and leaves another one.
HOLD, HELD_SUFFIX = "FAULTS_HOLD", ".held"
COLUMNS = ("date", LONG_SIGNAL, SHORT_SIGNAL, *PREDICTION_COLUMNS, "do_predict", "enter_long", "enter_short")
LONGEST_SECONDS = 600


def wait_in(folder: Path) -> None:
    """Tell that this process has come here, and stay until it may go on."""
    (folder / f"{os.getpid()}.waits").touch()
    deadline = time.monotonic() + LONGEST_SECONDS
    while not (folder / "go").exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"nobody has left {folder / 'go'}")
        time.sleep(0.05)


if HOLD in os.environ:
    _sleep = Worker._sleep

    def _sleep_while_held(seconds: float) -> None:
        hold = Path(os.environ[HOLD])
        while hold.exists():
            hold.with_suffix(HELD_SUFFIX).touch()
            time.sleep(0.02)
        _sleep(seconds)

    Worker._sleep = staticmethod(_sleep_while_held)


class WaitingStrategy(MtfScalper_RL_Hybrid):
    """The project's strategy, decision for decision."""

    _has_waited = False
    _written_at: datetime | None = None

    def bot_loop_start(self, current_time: datetime, **kwargs) -> None:
        """Write down what the last analysis made, before the next one."""
        super().bot_loop_start(current_time, **kwargs)
        if FRAMES not in os.environ:
            return
        # Not in populate_exit_trend: that is asked beforehand too, about columns that no policy made.
        frame, analysed_at = self.dp.get_analyzed_dataframe(self.dp.current_whitelist()[0], self.timeframe)
        if frame.empty or analysed_at == self._written_at:
            return
        self._written_at = analysed_at
        folder = Path(os.environ[FRAMES])
        whole, half = folder / f"{time.monotonic_ns()}.feather", folder / "half"
        _columns_of(frame).to_feather(half)
        half.rename(whole)

    def custom_exit(
        self, pair: str, trade: Trade, current_time: datetime, current_rate: float, current_profit: float, **kwargs
    ) -> str | None:
        """Wait before the first decision about a trade."""
        if not self._has_waited and WAITS_IN_FIRST_EXIT in os.environ:
            self._has_waited = True
            wait_in(Path(os.environ[WAITS_IN_FIRST_EXIT]))
        return super().custom_exit(pair, trade, current_time, current_rate, current_profit, **kwargs)

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        """The last step of an analysis: every column is there. The last one of a view is what it shows."""
        dataframe = super().populate_exit_trend(dataframe, metadata)
        if FRAME in os.environ:
            _columns_of(dataframe).to_feather(os.environ[FRAME])
        return dataframe


def _columns_of(frame: DataFrame) -> DataFrame:
    return frame.reindex(columns=COLUMNS).fillna({"enter_long": 0, "enter_short": 0})


class WaitingModel(MtfScalperFreqaiModel):
    """The package's model."""

    _n_trainings = 0

    def fit(self, data_dictionary: dict[str, Any], dk: FreqaiDataKitchen, **kwargs: Any) -> BaseAlgorithm:
        """Wait before a training, while the run holds what one process at a time may have."""
        self._n_trainings += 1
        if WAITS_IN_TRAINING in os.environ and self._n_trainings == int(os.environ.get(TRAINING_NUMBER, "1")):
            wait_in(Path(os.environ[WAITS_IN_TRAINING]))
        return super().fit(data_dictionary, dk, **kwargs)
