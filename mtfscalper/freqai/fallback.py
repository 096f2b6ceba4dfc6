"""Whether a policy has fallen back, so that the rules end its trades.

Only of policies that were to be judged (``rl_config.fallback``): one that nothing shows to beat classic exits falls
back, whatever is the matter with the report of its training.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from mtfscalper import artefacts
from mtfscalper.training.paired_result import PairedResult, must_fall_back
from mtfscalper.training.report import TrainingReport

logger = logging.getLogger(__name__)


def judged_in(folder: Path) -> PairedResult | str:
    """How the policy in a folder was judged, by the report of its training; why that is not known, in words."""
    path = folder / artefacts.REPORT_NAME
    try:
        report = TrainingReport.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{path} cannot be read ({type(error).__name__}: {error})"
    return judged_by(report, str(path))


def judged_by(report: TrainingReport, whose: str) -> PairedResult | str:
    """How a policy was judged, by the report of its training; why that is not known, in words.

    :param whose: the report is, in words
    """
    return report.judged or f"{whose} says nothing of it, for freqai.rl_config.fallback was not set then"


def falls_back(judged: PairedResult | str, pair: str) -> bool:
    """Whether a policy falls back, told in one log line.

    :param judged: see :func:`judged_in`
    """
    fallen = must_fall_back(judged)
    logger.log(logging.WARNING if fallen else logging.INFO, "%s", who_ends_trades(judged, pair))
    return fallen


def who_ends_trades(judged: PairedResult | str, pair: str) -> str:
    """What ends the trades of a policy, and why, in one sentence.

    :param judged: see :func:`judged_in`
    """
    why = f"nothing shows that it beats classic exits: {judged}" if isinstance(judged, str) else judged.in_words()
    who = "the rules end the policy's trades" if must_fall_back(judged) else "the policy ends its trades"
    return f"{pair}: {who} until the next training (rl_config.fallback): {why}."


def why_fallen(judged: PairedResult | str) -> str:
    """Why a policy falls back, in words that many have in common, to be counted by.

    :param judged: see :func:`judged_in`
    """
    return "an unknown judgement" if isinstance(judged, str) else judged.why_not_beaten
