"""Whether a policy has fallen back, so that the rules end its trades.

Only of policies that were to be judged (``rl_config.fallback``): one that nothing shows to beat classic exits falls
back, whatever is the matter with the report of its training.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from mtfscalper import artefacts
from mtfscalper.training.paired_result import PairedResult
from mtfscalper.training.report import TrainingReport

logger = logging.getLogger(__name__)


def judged_in(folder: Path) -> PairedResult | str:
    """How the policy in a folder was judged, by the report of its training; why that is not known, in words."""
    path = folder / artefacts.REPORT_NAME
    try:
        report = TrainingReport.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{path} cannot be read ({type(error).__name__}: {error})"
    return report.judged or f"{path} is of a training without freqai.rl_config.fallback"


def falls_back(judged: PairedResult | str, pair: str) -> bool:
    """Whether a policy falls back, told in one log line.

    :param judged: see :func:`judged_in`
    """
    fallen = isinstance(judged, str) or not judged.beats_classic
    why = f"nothing shows that it beats classic exits: {judged}" if isinstance(judged, str) else judged.in_words()
    logger.log(
        logging.WARNING if fallen else logging.INFO,
        "%s: %s until the next training (rl_config.fallback): %s.",
        pair,
        "the rules end the policy's trades" if fallen else "the policy ends its trades",
        why,
    )
    return fallen
