"""``mtfscalper study judge``: runs a study's winner on the locked candles and shows its gates."""

from __future__ import annotations

import shutil
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from freqtrade.configuration import TimeRange
from freqtrade.resolvers import StrategyResolver
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mtfscalper.artefacts import write_json
from mtfscalper.reporting.quiet import only_what_goes_wrong
from mtfscalper.reporting.wording import percent
from mtfscalper.search.attachments import write_note
from mtfscalper.search.cut_candles import locked_candles
from mtfscalper.search.gates import Limits
from mtfscalper.search.judge import finished_trial, judge, overlay_of_trial
from mtfscalper.search.judgements import Judgement
from mtfscalper.search.looks import SharedLooks
from mtfscalper.search.new_study import Asked
from mtfscalper.search.run_figures import Run
from mtfscalper.search.same_study import SameStudy
from mtfscalper.search.study_folder import StudyFolder
from mtfscalper.search.study_run import Opened, Request, open_or_begin
from mtfscalper.search.trial import folders_of
from mtfscalper.search.trial_config import config_of_trial, identifier_of, overlay_hash, write_overlay
from mtfscalper.search.trial_run import run_backtest

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


class JudgeRequest(NamedTuple):
    """What ``mtfscalper study judge`` is asked for.

    :ivar study: its name
    :ivar trial: its number; None for the best
    :ivar limits: see :func:`mtfscalper.search.judge.judge`
    :ivar again: whether to look anew where that trial has been judged
    :ivar json: gets the judgement too
    """

    study: str
    user_data_dir: Path
    storage: str | None = None
    trial: int | None = None
    limits: Limits | None = None
    again: bool = False
    keep_models: bool = False
    json: Path | None = None


def open_study_there(study: str, user_data_dir: Path, storage: str | None, console: Console) -> Opened:
    """Open a study that has begun.

    :raises StudyError: if it has not, or would no longer be measured as it was
    """
    # Raises where there is none.
    _ = StudyFolder.of(user_data_dir, study).spec
    asked = Request(study, (), trials=0, workers=0, asked=Asked(), storage=storage, user_data_dir=user_data_dir)
    with only_what_goes_wrong():
        return open_or_begin(asked, console)


def judge_study(request: JudgeRequest, console: Console) -> Judgement:
    """Judge a trial and show its gates.

    :raises StudyError: if it cannot be judged, as :class:`freqtrade.exceptions.OperationalException`
    """
    opened = open_study_there(request.study, request.user_data_dir, request.storage, console)
    trials = opened.study.get_trials(deepcopy=False)
    trial = finished_trial(trials, request.trial)
    judgement = judge_trial(
        opened, trial, request.limits, console, again=request.again, keep_models=request.keep_models
    )
    if request.json is not None:
        write_json(request.json, judgement.as_json())
        console.print(f"The judgement as JSON: {request.json}", markup=False)
    return judgement


def judge_trial(
    opened: Opened,
    trial: FrozenTrial,
    limits: Limits | None,
    console: Console,
    *,
    again: bool = False,
    keep_models: bool = False,
) -> Judgement:
    """Judge a trial of an open study, or show how it was judged."""
    runner = _LockedRuns(opened, trial)
    judgement, looked = judge(
        opened.folder,
        opened.study.get_trials(deepcopy=False),
        trial,
        runner.run,
        limits,
        again=again,
        progress=lambda text: console.print(f"{text} ...", markup=False),
        candles=runner.candles,
        shared=SharedLooks(opened.study),
    )
    # In a dashboard the trial's note gets its gates.
    write_note(opened.study, opened.folder, trial.number)
    if looked and not keep_models:
        runner.remove_models()
    print_judgement(opened.spec.name, judgement, console, looked=looked)
    return judgement


class _LockedRuns:
    """A trial's settings on the locked candles."""

    def __init__(self, opened: Opened, trial: FrozenTrial) -> None:
        self._opened, self._trial = opened, trial
        self._hash = overlay_hash(overlay_of_trial(opened.spec, trial))

    def run(self, seed: int) -> Run:
        """With the trainings of one seed, on all candles that there are."""
        from mtfscalper.search.space import SearchSpace

        folder, spec = self._opened.folder, self._opened.spec
        # Hours may lie between two seeds, and its files be edited meanwhile.
        self._same.check()
        values = SearchSpace.from_json(spec.space).values(self._trial.params)
        overlay = write_overlay(folder, spec, self._trial.number, values)
        with only_what_goes_wrong():
            return run_backtest(
                config_of_trial(self._opened.arguments, overlay),
                seed,
                timerange=spec.locked,
                datadir=Path(spec.datadir),
                identifier=identifier_of(spec, self._hash, seed),
            )

    def candles(self) -> str:
        """A hash of the locked candles.

        :raises StudyError: if those before them are others than those that the study began with
        """
        folder, spec = self._opened.folder, self._opened.spec
        end_ms = TimeRange.parse_timerange(spec.locked).stopts * 1000
        datadir, config = Path(spec.datadir), self._opened.config
        return locked_candles(config, datadir, folder.candles, spec.lock_ms, end_ms, spec.candles)

    @cached_property
    def _same(self) -> SameStudy:
        opened = self._opened
        strategy = StrategyResolver.load_strategy(deepcopy(opened.config))
        return SameStudy(opened.spec, opened.arguments, opened.config, strategy)

    def remove_models(self) -> None:
        """Remove the policies that were trained to judge."""
        user_data_dir = Path(self._opened.config["user_data_dir"])
        for seed in self._opened.spec.test_seeds:
            for folder in folders_of(user_data_dir, identifier_of(self._opened.spec, self._hash, seed)):
                shutil.rmtree(folder, ignore_errors=True)


def print_judgement(study: str, judgement: Judgement, console: Console, *, looked: bool) -> None:
    """Show the gates, and what may be done next."""
    when = "" if looked else f", as it was judged at {judgement.at}; nothing was run"
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="bold",
        title=f"Study {study}, trial {judgement.trial}: {judgement.locked}, {len(judgement.seeds)} seeds, "
        f"look {judgement.look}{_others(judgement)}{when}",
        title_justify="left",
    )
    table.add_column("gate", max_width=34)
    table.add_column("has", justify="right")
    table.add_column("needs", justify="right")
    table.add_column("")
    table.add_column("why", overflow="fold")
    for gate in judgement.gates:
        verdict = "[green]passed[/]" if gate.passed else "[red]not passed[/]"
        table.add_row(escape(gate.name), escape(gate.has), escape(gate.needs), verdict, escape(gate.why))
    console.print(table)
    console.print(
        f"The run itself earned {percent(judgement.profit, 2)} of the wallet on these candles, the mean of "
        f"{len(judgement.seeds)} seeds; {percent(judgement.difference, 3)} of a stake a day and pair over classic "
        "exits.",
        markup=False,
    )
    if judgement.passed and judgement.loses:
        console.print(
            "That is no profit: its exits are better than classic ones, which is what the gates ask, and its entries "
            "lose by more. Deployed, it would have lost money here; better entries are the strategy's part.",
            style="yellow",
            markup=False,
        )
    if judgement.passed:
        console.print(
            f"Every gate is passed. Next: mtfscalper study deploy --study {study} --trial {judgement.trial}",
            style="green",
            markup=False,
        )
    else:
        console.print(
            f"Not passed: {', '.join(judgement.refused_by)}. Looking again at these candles, with another trial or "
            "from another study of this user directory, halves what the interval may be wrong; other candles cost "
            "nothing.",
            style="yellow",
            markup=False,
        )


def _others(judgement: Judgement) -> str:
    """Whose the looks before were that this study did not have here."""
    if not judgement.looks_of_others:
        return ""
    by_study = ", ".join(f"{name} {looks}" for name, looks in judgement.looks_of_others.items())
    return f" at candles of these pairs and days (by others: {by_study})"
