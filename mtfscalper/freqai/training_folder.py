"""What a training leaves beside its model: its report, and the terms its policy was trained for."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from mtfscalper import artefacts
from mtfscalper.freqai.exit_policy import TradeTerms
from mtfscalper.training.report import TrainingReport

logger = logging.getLogger(__name__)


def write_notes(folder: Path, pair: str, report: TrainingReport, terms: TradeTerms) -> None:
    """Note in a model's folder how it was trained."""
    logger.info("%s", report.summary())
    with artefacts.told(f"{pair}: the report of a training"):
        artefacts.write_json(folder / artefacts.REPORT_NAME, report.as_json())
        artefacts.write_json(folder / artefacts.TERMS_NAME, terms.as_json())


def trained_terms(folder: Path, now: TradeTerms) -> TradeTerms:
    """The terms that a bot's policy was trained for: those of now, where its folder does not say."""
    path = folder / artefacts.TERMS_NAME
    if not path.is_file():
        return now
    try:
        return TradeTerms.from_json(json.loads(path.read_text()))
    except (KeyError, TypeError, ValueError) as error:
        logger.warning(
            "%s cannot be read (%s: %s): another version of mtfscalper wrote it, or it is damaged. Until the next "
            "training, trades are shown to the policy by the rules of now.",
            path,
            type(error).__name__,
            error,
        )
        return now
