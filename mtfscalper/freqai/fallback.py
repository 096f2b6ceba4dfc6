"""Whether a policy has fallen back, so that the rules end its trades: read off the report of its training."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from mtfscalper import artefacts
from mtfscalper.training.report import TrainingReport

logger = logging.getLogger(__name__)


def falls_back(folder: Path, pair: str) -> bool:
    """Whether the rules end the trades of the policy in a folder, told in one log line.

    Only of policies that were to be judged (``rl_config.fallback``): one that nothing shows to beat classic exits falls
    back, whatever is the matter with its report.

    :param folder: of the policy
    """
    path = folder / artefacts.REPORT_NAME
    try:
        report = TrainingReport.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning(
            "%s: the rules end the policy's trades until the next training: %s cannot be read (%s: %s), so that "
            "nothing shows whether it beats classic exits.",
            pair,
            path,
            type(error).__name__,
            error,
        )
        return True
    if report.judged is None:
        logger.warning(
            "%s: the rules end the policy's trades until the next training: it was trained without "
            "freqai.rl_config.fallback, so that nothing shows whether it beats classic exits.",
            pair,
        )
        return True
    ends = "the rules end its trades" if report.falls_back else "the policy ends its trades"
    logger.log(
        logging.WARNING if report.falls_back else logging.INFO,
        "%s: %s until the next training (rl_config.fallback): %s.",
        pair,
        ends,
        report.judged.in_words(),
    )
    return report.falls_back
