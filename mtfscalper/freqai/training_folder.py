"""What a training leaves beside its model: its report, and the terms its policy was trained for."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper import artefacts
from mtfscalper.executors.executor import Outcome
from mtfscalper.freqai.backtest_run import PeriodKitchen
from mtfscalper.freqai.exit_policy import TradeTerms
from mtfscalper.training.report import doubts

logger = logging.getLogger(__name__)


def noted(outcome: Outcome, dk: FreqaiDataKitchen, terms: TradeTerms) -> BaseAlgorithm:
    """The policy of a training, once the model's folder says how it was trained.

    :param outcome: of the training; where it failed, this raises what it raised
    :param dk: FreqAI's kitchen, of the pair and the model
    :param terms: the policy was trained for
    """
    if isinstance(outcome, Exception):
        raise outcome
    model, report = outcome
    folder = Path(dk.data_path)
    logger.info("%s", report.summary())
    with artefacts.told(f"{dk.pair}: the report of a training"):
        artefacts.write_json(folder / artefacts.REPORT_NAME, report.as_json())
        artefacts.write_json(folder / artefacts.TERMS_NAME, terms.as_json())
    if isinstance(dk, PeriodKitchen):
        # A backtest tells its doubts once, of all its trainings.
        dk.run.reports.append(report)
        if report.judged is not None:
            dk.period.falls_back = report.falls_back
    elif doubted := doubts([report]):
        logger.warning("%s", doubted)
    return model


def trained_terms(folder: Path) -> TradeTerms | None:
    """The terms that a policy was trained for, None where its folder does not say."""
    path = folder / artefacts.TERMS_NAME
    if not path.is_file():
        return None
    try:
        return TradeTerms.from_json(json.loads(path.read_text()))
    except (KeyError, TypeError, ValueError) as error:
        logger.warning(
            "%s cannot be read (%s: %s): another version of mtfscalper wrote it. Until the next training, trades are "
            "shown to the policy by the rules of now.",
            path,
            type(error).__name__,
            error,
        )
        return None
