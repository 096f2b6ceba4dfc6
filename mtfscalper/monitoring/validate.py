"""Run a short training, watch it, and say whether everything that was asked for really happened."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mtfscalper.monitoring.checks import all_checks, check_packages
from mtfscalper.monitoring.packages import PackageFact, package_facts
from mtfscalper.monitoring.table import checks_table, passed, summary
from mtfscalper.monitoring.verdicts import Check
from mtfscalper.offline import EXIT_INTERRUPTED, ReplayError

if TYPE_CHECKING:
    from mtfscalper.monitoring.facts import RunFacts
    from mtfscalper.monitoring.plan import Plan, Request

# What runs freqtrade is imported after the packages have been looked for: so --help does not take seconds, and a
# package that is missing is named instead of ending in a traceback.

EXIT_FAILED = 1
EXIT_USAGE = 2
WIDTH_OF_A_FILE = 120


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="validate_monitoring.py",
        description="Run a short training through the freqtrade command on a loopback exchange, watch it from outside, "
        "and check that what was configured is what ran: processes, threads, network, speed, decisions, trades.",
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
    if args.json is not None and not args.json.absolute().parent.is_dir():
        errors.out(f"error: --json {args.json}: its folder does not exist; create it or name another")
        return EXIT_USAGE
    packages = package_facts()
    if any(fact.problem and fact.installed is None for fact in packages):
        return _conclude(console, [check_packages(packages)], args.json, {"packages": packages})

    from mtfscalper.monitoring.freqtrade_run import RunError
    from mtfscalper.monitoring.inspection import ArtefactError
    from mtfscalper.monitoring.plan import Request, RequestError

    request = Request(
        root=root,
        configs=tuple(path.absolute() for path in args.config),
        datadir=args.datadir.absolute() if args.datadir else None,
        timerange=args.timerange,
        keep=args.keep,
    )
    try:
        facts = observe(request, packages, console)
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
    return _conclude(console, all_checks(facts), args.json, asdict(facts))


def observe(request: Request, packages: tuple[PackageFact, ...], console: Console) -> RunFacts:
    """Run, watch, and read what is on disk.

    :raises mtfscalper.monitoring.plan.RequestError: if the request cannot be run
    :raises mtfscalper.monitoring.freqtrade_run.RunError: if freqtrade fails
    :raises mtfscalper.monitoring.inspection.ArtefactError: if a training left something unreadable
    """
    import psutil

    from mtfscalper.machine import set_torch_threads, usable_processors
    from mtfscalper.monitoring.facts import RunFacts
    from mtfscalper.monitoring.freqtrade_run import run_watched
    from mtfscalper.monitoring.inspection import changed_settings, trades_of_result, trained_periods
    from mtfscalper.monitoring.plan import plan_run
    from mtfscalper.monitoring.sampler import peak_memory

    plan = plan_run(request)
    _announce(console, plan, request)
    scratch = Path(tempfile.mkdtemp(prefix="mtfscalper-validate-"))
    try:
        ran = run_watched(plan, request.root, scratch, console)
        # The decisions below are timed with as many threads as the training had.
        set_torch_threads(plan.settings.rl.cpu_count, plan.settings.rl.interop_threads)
        with console.status("reading the saved policies and deciding with them"):
            periods = trained_periods(plan.models, ran.recording, plan.settings)
        return RunFacts(
            asked=plan.asked,
            packages=packages,
            periods=periods,
            trades=trades_of_result(ran.result),
            memory=peak_memory(ran.recording),
            processors=usable_processors(),
            memory_bytes=psutil.virtual_memory().total,
            most_threads=ran.recording.most_threads(),
            changed_settings=changed_settings(plan.models, plan.settings),
            processes_left={pid: ran.recording.roles[pid] for pid in ran.recording.left_running},
            environment_overrides=tuple(sorted(name for name in os.environ if name.startswith("FREQTRADE__"))),
            freqtrade_seconds=ran.seconds,
            watching_cpu_seconds=ran.watching_cpu_seconds,
        )
    finally:
        if request.keep:
            console.out(f"kept      {plan.models}\n          {scratch}")
        else:
            shutil.rmtree(plan.models, ignore_errors=True)
            shutil.rmtree(scratch, ignore_errors=True)


def _announce(console: Console, plan: Plan, request: Request) -> None:
    asked = plan.asked
    market = "the synthetic market" if request.datadir is None else str(plan.datadir)
    changed = ", ".join(f"{key} {value!r}" for key, value in plan.overrides["rl_config"].items())
    console.out(f"training  {', '.join(plan.pairs)}, {plan.timerange}, on {market}")
    console.out(
        f"asked     {asked.n_envs} {asked.vec_env} environments x {asked.n_steps} steps, batches of "
        f"{asked.batch_size}, network {list(asked.net_arch)}, train_cycles {asked.train_cycles}",
    )
    console.out(f"changed   {changed}, to keep it short")
    if not request.configs:
        console.out(
            "          (classic: signals enter, the policy only exits; trained so briefly it may veto every entry)",
        )
    console.out(f"log       {plan.log}")


def _conclude(console: Console, checks: list[Check], json_path: Path | None, facts: dict[str, Any]) -> int:
    console.print(checks_table(checks))
    cost = ""
    if "freqtrade_seconds" in facts:
        share = facts["watching_cpu_seconds"] / facts["freqtrade_seconds"]
        cost = f"; freqtrade ran for {facts['freqtrade_seconds']:.0f} s, watching it cost {share:.0%} of a core"
    console.out(summary(checks) + cost)
    verdicts = [check._asdict() for check in checks]
    _write(json_path, {"passed": passed(checks), "checks": verdicts, "facts": facts})
    return 0 if passed(checks) else EXIT_FAILED


def _write(path: Path | None, value: dict[str, Any]) -> None:
    if path is None:
        return
    from mtfscalper import artefacts

    artefacts.write_json(path, artefacts.plain_json(value))
