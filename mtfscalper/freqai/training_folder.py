"""What a training leaves beside its model: its report, and the terms its policy was trained for."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

from freqtrade.exceptions import FreqtradeException
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper import artefacts
from mtfscalper.executors.executor import Outcome
from mtfscalper.freqai.backtest_run import PeriodKitchen
from mtfscalper.freqai.exit_policy import TradeTerms
from mtfscalper.freqai.fallback import judged_by
from mtfscalper.freqai.run_watching import period_name
from mtfscalper.market.tape import TapeError
from mtfscalper.trading.own_reward import OwnRewardError
from mtfscalper.trading.trading_rules import RulesError
from mtfscalper.training.paired_result import PairedResult
from mtfscalper.training.report import TrainingReport, doubts

logger = logging.getLogger(__name__)


class Origin(NamedTuple):
    """What is known of a policy's training: from the training itself, or by what the policy's folder says.

    :ivar terms: that it was trained for; None where the folder does not say
    :ivar trained_with: see :mod:`mtfscalper.freqai.trained_with`; empty where the folder does not say
    :ivar from_disk: whether an earlier run trained it
    :ivar stands_in: whether it decides in place of a later one that cannot be used
    :ivar judged: see :func:`mtfscalper.freqai.fallback.judged_in`
    :ivar report: of a training of this process
    :ivar files_changed: which files that the user's code read are others now, in words, see
        :func:`mtfscalper.files_read.why_changed`
    """

    terms: TradeTerms | None
    trained_with: Mapping[str, Any]
    from_disk: bool = False
    stands_in: bool = False
    judged: PairedResult | str = "its folder is unknown"
    report: TrainingReport | None = None
    files_changed: str | None = None


def says_all(error: Exception) -> bool:
    """Whether the message of what a training raised says what to change, so that no traceback has to."""
    return isinstance(error, OwnRewardError | TapeError | RulesError | FreqtradeException)


def noted(
    outcome: Outcome,
    dk: FreqaiDataKitchen,
    terms: TradeTerms,
    origins: MutableMapping[BaseAlgorithm, Origin],
    *,
    is_told: bool = False,
) -> BaseAlgorithm:
    """The policy of a training, once it is known how it was trained, also in the model's folder.

    :param outcome: of the training; where it failed, this raises what it raised
    :param dk: FreqAI's kitchen, of the pair and the model
    :param terms: the policy was trained for
    :param origins: get the policy's: what decides by it does not depend on what can be written
    :param is_told: whether the log says already that the training is done
    """
    if isinstance(outcome, Exception):
        raise outcome
    model, report = outcome
    if not is_told:
        logger.info("Done training %s: %s", f"{dk.pair} {period_name(dk)}".rstrip(), report.summary())
    origins[model] = Origin(terms, {}, judged=judged_by(report, "its training"), report=report)
    with artefacts.told(f"{dk.pair}: the report of a training"):
        write_notes(Path(dk.data_path), report, terms)
    if isinstance(dk, PeriodKitchen):
        # A backtest tells its doubts once, of all its trainings.
        dk.run.reports.append(report)
        dk.period.files_read = dict(report.files_read)
        if report.judged is not None:
            dk.period.judge(report.judged)
    elif doubted := doubts([report]):
        logger.warning("%s", doubted)
    return model


def write_notes(folder: Path, report: TrainingReport, terms: TradeTerms) -> None:
    """Leave in a model's folder how it was trained.

    :param terms: the policy was trained for
    :raises OSError: if it cannot be written
    """
    artefacts.write_json(folder / artefacts.REPORT_NAME, report.as_json())
    artefacts.write_json(folder / artefacts.TERMS_NAME, terms.as_json())


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
