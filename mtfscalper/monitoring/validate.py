"""Run a short training, watch it, and say whether everything that was asked for really happened."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mtfscalper.monitoring.advice import Advice, advise
from mtfscalper.monitoring.checks import all_checks, check_packages
from mtfscalper.monitoring.packages import PackageFact, package_facts
from mtfscalper.monitoring.page import page
from mtfscalper.monitoring.table import advice_table, checks_table, passed, summary
from mtfscalper.monitoring.verdicts import Check
from mtfscalper.offline import EXIT_INTERRUPTED, ReplayError

if TYPE_CHECKING:
    from mtfscalper.monitoring.choices import Choice
    from mtfscalper.monitoring.estimate import TimeLeft
    from mtfscalper.monitoring.facts import LeftBehind, RunFacts, TimedRun, TrainedPeriod
    from mtfscalper.monitoring.others import Others
    from mtfscalper.monitoring.plan import Change, Plan, Request

# What runs freqtrade is imported after the packages have been looked for: so --help does not take seconds, and a
# package that is missing is named instead of ending in a traceback.

EXIT_FAILED = 1
EXIT_USAGE = 2
WIDTH_OF_A_FILE = 120
SECONDS, TIMING_SECONDS_MIN = 150, 20
# Between two lines about the timing, where there is no terminal.
TOLD_EVERY_SECONDS = 10.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="validate_monitoring.py",
        description="Run a short training through the freqtrade command on a loopback exchange, watch it from outside, "
        "and check that what was configured is what ran: processes, threads, network, speed, decisions, trades. Then "
        "time the same training in other ways, and say which settings would be faster on this machine.",
        epilog="Exit status: 0 all checks passed, 1 a check failed, 2 wrong usage.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="your freqtrade configuration instead of the project's, trained for one cycle; repeatable, later ones "
        "override earlier ones",
    )
    parser.add_argument(
        "--datadir", type=Path, help="your freqtrade data directory, with --timerange (default: synthetic market)"
    )
    parser.add_argument("--timerange", help="what to backtest, as freqtrade writes it (synthetic: 20241001-20241008)")
    parser.add_argument("--keep", action="store_true", help="leave models, overlay and backtest result behind")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=SECONDS,
        metavar="N",
        help="how long all of it may take (default %(default)s). freqtrade's training is not cut; what is left of the "
        f"time, {TIMING_SECONDS_MIN} s at the least, goes to timing other ways to train",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write checks and advice there as a page as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write facts and checks there as well")
    return parser


def main(argv: Sequence[str] | None = None, *, root: Path, console: Console | None = None) -> int:
    """Run the command line.

    :param argv: arguments without the program's name; None takes those of the process
    :param root: checkout of the project
    :param console: where to print; None takes the terminal
    :return: exit status: 0 all checks passed, 1 one failed or freqtrade did, 2 wrong usage, 130 interrupted
    """
    args = _parser().parse_args(argv)
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_OF_A_FILE)
    errors = Console(stderr=True, highlight=False)
    for option, path in (("--json", args.json), ("--html", args.html)):
        if path is not None and not path.absolute().parent.is_dir():
            errors.out(f"error: {option} {path}: its folder does not exist; create it or name another")
            return EXIT_USAGE
    packages = package_facts()
    if any(fact.problem and fact.installed is None for fact in packages):
        return _conclude(console, [check_packages(packages)], args.json, {"packages": packages}, html_path=args.html)

    from mtfscalper.monitoring.freqtrade_run import RunError
    from mtfscalper.monitoring.inspection import ArtefactError
    from mtfscalper.monitoring.plan import Request, RequestError, plan_run

    request = Request(
        root=root,
        configs=tuple(path.absolute() for path in args.config),
        datadir=args.datadir.absolute() if args.datadir else None,
        timerange=args.timerange,
        keep=args.keep,
    )
    try:
        plan = plan_run(request)
        facts = observe(plan, request, packages, console, args.seconds)
    except (RequestError, ReplayError) as error:
        errors.out(f"error: {error}")
        return EXIT_USAGE
    except (RunError, ArtefactError) as error:
        console.out(f"FAILED: {error}")
        _write(args.json, {"passed": False, "error": str(error)})
        return EXIT_FAILED
    except KeyboardInterrupt:
        console.out("Interrupted; freqtrade and the loopback exchange have stopped.")
        return EXIT_INTERRUPTED
    advice = None if facts.timed is None else advise(facts.timed, facts.processors)
    return _conclude(
        console, all_checks(facts), args.json, asdict(facts), advice=advice, changes=plan.changes, html_path=args.html
    )


def observe(
    plan: Plan, request: Request, packages: tuple[PackageFact, ...], console: Console, seconds: float
) -> RunFacts:
    """Run, watch, read what is on disk, and time the same training by itself.

    :param seconds: how long all of it may take
    :raises mtfscalper.monitoring.freqtrade_run.RunError: if freqtrade fails
    :raises mtfscalper.monitoring.inspection.ArtefactError: if a training left something unreadable
    """
    import psutil

    from mtfscalper.machine import set_torch_threads, usable_processors
    from mtfscalper.monitoring.facts import RunFacts
    from mtfscalper.monitoring.freqtrade_run import run_watched
    from mtfscalper.monitoring.inspection import changed_settings, trades_of_result, trained_periods
    from mtfscalper.monitoring.left_behind import left_behind, remove_all
    from mtfscalper.monitoring.others import look_around
    from mtfscalper.monitoring.sampler import peak_memory
    from mtfscalper.monitoring.timing import TrialError

    began = time.monotonic()
    # The decisions below are timed with as many threads as the training had.
    set_torch_threads(plan.settings.rl.torch_threads, plan.settings.rl.interop_threads)
    others = look_around()
    time_left = expected_time(plan, seconds, others)
    _announce(console, plan, request, time_left.total, others)
    scratch = Path(tempfile.mkdtemp(prefix="mtfscalper-validate-"))
    try:
        ran = run_watched(plan, request.root, scratch, console, time_left)
        with console.status("reading the saved policies and deciding with them"):
            periods = trained_periods(plan.models, ran.recording, plan.settings)
            left = left_behind(plan.models, ran.result, plan.user_data)
        timed, why_untimed = None, "nothing was trained"
        if periods:
            remaining = max(float(TIMING_SECONDS_MIN), seconds - (time.monotonic() - began))
            try:
                timed, why_untimed = _timed(plan, periods, left, remaining, console), ""
            except TrialError as error:
                why_untimed = str(error)
        return RunFacts(
            asked=plan.asked,
            packages=packages,
            periods=periods,
            trades=trades_of_result(ran.result),
            left=left,
            timed=timed,
            memory=peak_memory(ran.recording),
            processors=usable_processors(),
            memory_bytes=psutil.virtual_memory().total,
            most_threads=ran.recording.most_threads(),
            changed_settings=changed_settings(plan.models, plan.settings),
            processes_left={pid: ran.recording.roles[pid] for pid in ran.recording.left_running},
            environment_overrides=tuple(sorted(name for name in os.environ if name.startswith("FREQTRADE__"))),
            freqtrade_seconds=ran.seconds,
            watching_cpu_seconds=ran.watching_cpu_seconds,
            gpu_bytes=ran.gpu_bytes,
            why_untimed=why_untimed,
        )
    finally:
        if request.keep:
            console.out(f"kept      {plan.models}\n          {scratch}")
        else:
            remove_all(plan.models, plan.user_data)
            shutil.rmtree(scratch, ignore_errors=True)


def expected_time(plan: Plan, seconds: float, others: Others) -> TimeLeft:
    """How long a run will take, by the rate of matrix products here.

    :param seconds: how long it may take
    :param others: what has the processors as well
    """
    import torch

    from mtfscalper.machine import usable_processors
    from mtfscalper.monitoring.estimate import (
        END_SECONDS,
        N_FEATURES,
        START_SECONDS,
        TimeLeft,
        slowed,
        training_count,
        training_seconds,
    )
    from mtfscalper.monitoring.roofline import Roofline

    roofline = Roofline([torch.float32])
    roofline.measure()
    count = training_count(plan.config, plan.timerange, len(plan.pairs), plan.settings)
    processors = usable_processors()
    slower = slowed(min(plan.settings.rl.torch_threads, processors), others, processors)
    peak_flops = 1e9 * roofline.peak(torch.float32)
    each = training_seconds(plan.settings, plan.config["timeframe"], N_FEATURES, peak_flops)
    freqtrade = slower * (START_SECONDS + count * each + END_SECONDS)
    return TimeLeft(count, each, after=max(slower * TIMING_SECONDS_MIN, seconds - freqtrade), slower=slower)


def _timed(
    plan: Plan, periods: Sequence[TrainedPeriod], left: LeftBehind, seconds: float, console: Console
) -> TimedRun:
    from mtfscalper.monitoring.plan import why_refused
    from mtfscalper.monitoring.timed_run import choice_of, task_of, time_run

    told = [-TOLD_EVERY_SECONDS]
    with console.status("") as status:

        def tell(what: str, left: float) -> None:
            until = f"about {left:.0f} s left" if left else "the last rounds"
            if console.is_terminal:
                status.update(f"{what} · {until}")
            elif time.monotonic() - told[0] >= TOLD_EVERY_SECONDS:
                console.print(f"        {what}, {until}", markup=False)
                told[0] = time.monotonic()

        task = task_of(plan.models, plan.settings, plan.user_data, left)
        yours = choice_of(plan.settings, periods[0], task.abilities())

        def accepts(choice: Choice) -> bool:
            return why_refused(plan, yours.differences(choice)) is None

        return time_run(task, yours, periods, seconds, tell, accepts)


def _announce(console: Console, plan: Plan, request: Request, seconds: float, others: Others) -> None:
    asked = plan.asked
    market = "the synthetic market" if request.datadir is None else str(plan.datadir)
    console.out(f"training  {', '.join(plan.pairs)}, {plan.timerange}, on {market}")
    console.out(
        f"asked     {asked.n_envs} {asked.vec_env} environments x {asked.n_steps} steps, batches of "
        f"{asked.batch_size}, network {list(asked.net_arch)}, train_cycles {asked.train_cycles}",
    )
    for number, change in enumerate(plan.changes):
        console.out(f"{'changed' if number == 0 else '':<9} {change.key}: {change.before} -> {change.after}")
    console.out("          for this run alone; your configuration stays as it is")
    if not request.configs:
        console.out(
            "          (classic: signals enter, the policy only exits; trained so briefly it may veto every entry)",
        )
    console.out(f"log       {plan.log}")
    console.out(f"takes     about {seconds / 60:.1f} minutes")
    if others.is_busy:
        most = f", most of it {others.busiest}" if others.busiest else ""
        console.out(
            f"busy      in the last second other programs used {others.cores:.1f} cores{most}; {others.waiting:.1f}"
        )
        console.out("          programs wanted one in the last minute: what is timed will be so busy a machine's")


def _conclude(
    console: Console,
    checks: list[Check],
    json_path: Path | None,
    facts: dict[str, Any],
    *,
    advice: Advice | None = None,
    changes: Sequence[Change] = (),
    html_path: Path | None = None,
) -> int:
    console.print(checks_table(checks))
    if advice is not None:
        console.print(advice_table(advice))
        console.out(advice.headline)
        if advice.config:
            console.out(advice.pasted)
        for remark in advice.remarks:
            console.out(remark)
        console.out("")
    cost = ""
    if "freqtrade_seconds" in facts:
        share = facts["watching_cpu_seconds"] / facts["freqtrade_seconds"]
        cost = f"; freqtrade ran for {facts['freqtrade_seconds']:.0f} s, watching it cost {share:.0%} of a core"
    console.out(summary(checks) + cost)
    written = {
        "passed": passed(checks),
        "checks": [check._asdict() for check in checks],
        "facts": facts,
        "advice": None if advice is None else advice._asdict(),
        "changes": [change._asdict() for change in changes],
    }
    _write(json_path, written)
    if html_path is not None:
        from mtfscalper import artefacts

        artefacts.write_bytes(html_path, page(summary(checks) + cost, checks, advice, changes).encode())
    return 0 if passed(checks) else EXIT_FAILED


def _seconds(text: str) -> int:
    seconds = int(text)
    if seconds < TIMING_SECONDS_MIN:
        raise argparse.ArgumentTypeError(f"{text} is less than {TIMING_SECONDS_MIN}, the least that timing takes")
    return seconds


def _write(path: Path | None, value: dict[str, Any]) -> None:
    if path is None:
        return
    from mtfscalper import artefacts

    artefacts.write_json(path, artefacts.plain_json(value))
