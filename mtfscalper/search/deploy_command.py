"""``mtfscalper study deploy``: puts a judged trial in a bot's place, takes it back, or goes on doing so by itself."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from freqtrade.commands.arguments import Arguments
from freqtrade.exceptions import OperationalException
from freqtrade.resolvers import StrategyResolver
from rich.console import Console

from mtfscalper.reporting.quiet import only_what_goes_wrong
from mtfscalper.search.deployment import Deployed, Deployments, identifier_of, overlay_for, why_refused
from mtfscalper.search.errors import ChangedError, NotFollowedError, StudyError
from mtfscalper.search.gates import Limits
from mtfscalper.search.judge import best_of, finished_trial, overlay_of_trial
from mtfscalper.search.judge_command import judge_trial, open_study_there
from mtfscalper.search.judgements import Judgement, Judgements
from mtfscalper.search.reload import checked_url, reload_bot
from mtfscalper.search.same_study import SameStudy
from mtfscalper.search.storage import open_storage, open_study
from mtfscalper.search.study_folder import StudyFolder, StudySpec
from mtfscalper.search.study_run import Opened, check_storage
from mtfscalper.search.trial_config import overlay_hash, study_config
from mtfscalper.user_code import UserCodeError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

# Trials take minutes.
WATCH_SECONDS = 30.0
# Of the first trials any is the best, and the gates ask what choosing among many is worth.
AFTER_TRIALS = 10


class DeployRequest(NamedTuple):
    """What ``mtfscalper study deploy`` is asked for.

    :ivar study: its name; None with ``rollback``
    :ivar line: the name of what one bot follows
    :ivar trial: its number; None for the best
    :ivar force: why it is deployed without passed gates
    :ivar reload: the address of a bot that is to follow
    """

    study: str | None
    line: str
    user_data_dir: Path
    storage: str | None = None
    trial: int | None = None
    force: str | None = None
    reload: str | None = None
    limits: Limits | None = None
    after_trials: int = AFTER_TRIALS
    every_seconds: float = WATCH_SECONDS


def deploy_study(request: DeployRequest, console: Console) -> Deployed:
    """Deploy a trial that has passed its gates.

    :raises NotFollowedError: if it is deployed and a bot does not follow
    :raises StudyError: if it has not passed and no reason is given
    """
    url, deployments = _checked(request), Deployments(request.user_data_dir)
    assert request.study is not None
    folder = StudyFolder.of(request.user_data_dir, request.study)
    spec = folder.spec
    check_storage(folder, request.storage)
    study = open_study(open_storage(request.storage, folder), spec, [spec.sampler_seed])
    trial = finished_trial(study.get_trials(deepcopy=False), request.trial)
    deployed = _deploy(deployments, folder, spec, trial, request, changed=_why_changed(spec))
    _tell(deployed, "deployed", spec.arguments, console)
    _reload(deployments, deployed, url, console)
    return deployed


def rollback(request: DeployRequest, console: Console) -> Deployed:
    """Put back what was deployed before.

    :raises NotFollowedError: if it is put back and a bot does not follow
    :raises StudyError: if there is nothing before
    """
    url, deployments = _checked(request), Deployments(request.user_data_dir)
    deployed = deployments.rollback(request.line)
    _tell(deployed, "put back", (), console)
    _reload(deployments, deployed, url, console)
    return deployed


def watch(request: DeployRequest, console: Console, *, wait: Callable[[float], None] = time.sleep) -> None:
    """Judge each new best trial once, and deploy it when it passes, until it is interrupted.

    :raises StudyError: if the study cannot be judged; a bot that does not follow is told of, and the watch goes on
    """
    url, deployments = _checked(request), Deployments(request.user_data_dir)
    assert request.study is not None
    opened = open_study_there(request.study, request.user_data_dir, request.storage, console)
    console.print(
        f"Watching study {opened.spec.name}: from {request.after_trials} finished trials on each new best is judged "
        f"once, and deployed as {request.line} when it passes. Each judgement is a look at the locked candles, and "
        "asks more than the one before. Ctrl-C ends this.",
        markup=False,
    )
    known, seen = Judgements(opened.folder), set[int]()
    while True:
        trials = opened.study.get_trials(deepcopy=False)
        finished = [trial for trial in trials if trial.state.name == "COMPLETE"]
        if len(finished) >= request.after_trials and (best := best_of(trials)).number not in seen:
            seen.add(best.number)
            earlier = known.of(best.number, overlay_hash(overlay_of_trial(opened.spec, best)))
            judgement = judge_trial(opened, best, request.limits if earlier is None else None, console)
            if earlier is None:
                deployments.note(
                    *("judge", request.line),
                    study=opened.spec.name,
                    trial=best.number,
                    passed=judgement.passed,
                    look=judgement.look,
                )
            # One that was judged by hand, or before a watch was cut off, may wait for its deployment; one that was
            # deployed may have been taken back.
            if not deployments.had(request.line, opened.spec.name, best.number):
                _deploy_by_itself(deployments, opened, best, judgement, request, url, console)
        wait(request.every_seconds)


# ---------------------------------------------------------------------- parts


def _deploy_by_itself(
    deployments: Deployments,
    opened: Opened,
    trial: FrozenTrial,
    judgement: Judgement,
    request: DeployRequest,
    url: str | None,
    console: Console,
) -> None:
    """Deploy a trial that has passed, if its run earned something."""
    if not judgement.passed:
        return
    refusal = why_refused(opened.spec.name, trial.number, judgement)
    if request.limits is not None and judgement.limits != request.limits.model_dump():
        refusal = f"trial {trial.number} was judged by other limits than are asked for now"
    refusal = refusal or _why_changed(opened.spec)
    if refusal is None and judgement.loses:
        refusal = (
            f"the run of trial {trial.number} lost. If you want it all the same: mtfscalper study deploy --study "
            f"{opened.spec.name} --trial {trial.number}"
        )
    if refusal is not None:
        deployments.note("refuse", request.line, study=opened.spec.name, trial=trial.number, why=refusal)
        console.print(f"Not deployed by itself: {refusal}", style="yellow", markup=False)
        return
    deployed = _deploy(deployments, opened.folder, opened.spec, trial, request)
    _tell(deployed, "deployed", opened.arguments, console)
    try:
        _reload(deployments, deployed, url, console)
    except StudyError as error:
        console.print(f"error: {error}", style="red", markup=False)


def _checked(request: DeployRequest) -> str | None:
    Deployments(request.user_data_dir).path(request.line)
    if request.force is not None and not request.force.strip():
        raise StudyError('--force is empty; accepted: why it is deployed all the same; remedy: --force "REASON"')
    return None if request.reload is None else checked_url(request.reload)


def _why_changed(spec: StudySpec) -> str | None:
    """Why a bot would trade otherwise than what was judged, or that this cannot be seen; None where it would not."""
    try:
        with only_what_goes_wrong():
            config = study_config(spec.arguments)
            same = SameStudy(spec, spec.arguments, config, StrategyResolver.load_strategy(deepcopy(config)))
    except (OperationalException, UserCodeError, StudyError) as error:
        return (
            f"whether config and strategy are still those of the study {spec.name} cannot be seen from here: "
            f"{' '.join(str(error).split())}; accepted: what was judged; remedy: put it back, run the command in the "
            "folder where the study was begun"
        )
    try:
        same.check_users(config)
    except ChangedError as error:
        return str(error)
    return None


def _deploy(
    deployments: Deployments,
    folder: StudyFolder,
    spec: StudySpec,
    trial: FrozenTrial,
    request: DeployRequest,
    *,
    changed: str | None = None,
) -> Deployed:
    overlay = overlay_of_trial(spec, trial)
    return deployments.deploy(
        request.line,
        spec,
        trial.number,
        overlay_for(spec, overlay, request.line),
        Judgements(folder).of(trial.number, overlay_hash(overlay)),
        parameters=trial.params,
        value=trial.value,
        force=request.force,
        changed=changed,
    )


def _tell(deployed: Deployed, what: str, arguments: Sequence[str], console: Console) -> None:
    """
    :param arguments: of ``freqtrade backtesting``, of the study; none where it is not known
    """
    before = "" if deployed.previous is None else f"; version {deployed.previous} is kept"
    console.print(
        f"Trial {deployed.trial} of study {deployed.study} is {what}: {deployed.path}, version {deployed.version}"
        f"{before}. FreqAI's identifier: {identifier_of(deployed.line)}",
        style="green",
        markup=False,
    )
    if deployed.set_aside is not None:
        console.print(
            f"What lay there had been changed since it was deployed, and now lies in {deployed.set_aside}.",
            style="yellow",
            markup=False,
        )
    if arguments:
        asked = Arguments(["backtesting", *arguments]).get_parsed_arg()
        configs = [word for file in asked["config"] for word in ("--config", str(file))]
        command = ["freqtrade", "trade", *configs, "--config", str(deployed.path)]
        console.print(f"A bot follows it with: {shlex.join(command)}", markup=False)


def _reload(deployments: Deployments, deployed: Deployed, url: str | None, console: Console) -> None:
    if url is None:
        return
    strategy = str(json.loads(deployed.path.read_text(encoding="utf-8")).get("strategy"))
    try:
        done = reload_bot(url, strategy)
    except StudyError as error:
        deployments.note("reload", deployed.line, version=deployed.version, url=url, ok=False, error=str(error))
        raise NotFollowedError(f"{deployed.path} is in place, and no bot follows it yet: {error}") from error
    deployments.note("reload", deployed.line, version=deployed.version, url=url, ok=True, bot=done.bot_name)
    console.print(
        f"The bot {done.bot_name} at {url} has read its config again and runs after {done.seconds:.0f} s.",
        style="green",
        markup=False,
    )
