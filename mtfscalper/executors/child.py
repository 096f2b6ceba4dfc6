"""Trainings in a process of their own, of low priority, which can be lost without whoever asked for them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import psutil

from mtfscalper.executors.batches import Batches, in_batches
from mtfscalper.executors.executor import Executor, Outcome, run_all
from mtfscalper.machine import set_torch_threads
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.evaluation import Evaluation
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.watching import TrainingState, Watch

logger = logging.getLogger(__name__)

# How often whoever asked looks whether to end it, and how often it shows a sign of life.
_LOOK_SECONDS = 0.1
# Jobs that one process is given.
_AT_ONCE = 64
# How long it may take to end by itself.
_CLOSE_SECONDS = 5.0
# Added to its niceness: the share of a busy processor that it then gets is a tenth of an ordinary process's.
_NICENESS = 10
# Of a thousand, by which Linux would sooner end it than others where memory is short.
_OOM_SCORE = 500
# Of a saved model too, stable-baselines3 leaves these out.
_ONLY_TRAINING = ("env", "rollout_buffer", "replay_buffer", "_logger")


class ChildLostError(RuntimeError):
    """The process of a training ended without a result. Says how, and what to do."""


class _Told(NamedTuple):
    """What the process tells: one of these at a time.

    :ivar evaluation: at a sign of life: what was evaluated, or None
    :ivar state: how far a training is
    :ivar record: a line for the log
    :ivar outcomes: at the end, what became of each training
    """

    evaluation: Evaluation | None = None
    state: TrainingState | None = None
    record: logging.LogRecord | None = None
    outcomes: list[Outcome] | None = None


class ChildExecutor:
    """Lets another executor run jobs in a new process. See :class:`mtfscalper.executors.executor.Executor`.

    The process and its worker processes are ended before an outcome is returned, however that comes about; they end by
    themselves if this process is killed. They have lower priority than this process, and where memory is short they are
    what Linux ends first.

    :ivar together: as of the other executor
    """

    def __init__(self, executor: Executor, check: Callable[[], None]) -> None:
        """
        :param executor: can be pickled
        :param check: is called several times a second; what it raises ends the trainings, and becomes of each of them
        """
        self._executor, self._check = executor, check
        self.together = executor.together

    def start(
        self, on_evaluation: OnEvaluation | None = None, watch: Watch | None = None
    ) -> AbstractContextManager[Batches]:
        """See :meth:`mtfscalper.executors.executor.Executor.start`; ``on_evaluation`` hears None several times a second
        at most."""

        def run(jobs: Sequence[TrainingJob]) -> list[Outcome]:
            try:
                # A short name: sockets lie in it, whose paths may have a hundred characters.
                with tempfile.TemporaryDirectory(prefix="rl-", ignore_cleanup_errors=True) as scratch:
                    return self._run(jobs, on_evaluation, watch, scratch)
            except Exception as error:
                return [error] * len(jobs)

        return in_batches(run, _AT_ONCE)

    def _run(
        self, jobs: Sequence[TrainingJob], on_evaluation: OnEvaluation | None, watch: Watch | None, scratch: str
    ) -> list[Outcome]:
        context = multiprocessing.get_context("spawn")
        ours, its = context.Pipe()
        level = logging.getLogger("mtfscalper").getEffectiveLevel()
        # No daemon: its environments may be processes.
        process = context.Process(target=_serve, args=(its, scratch, level), name="training", daemon=False)
        with ours:
            try:
                process.start()
                its.close()
                request = cloudpickle.dumps((self._executor, list(jobs)))
                while (told := self._next(ours)) is not None:
                    if told.record is not None:
                        _log(told.record)
                    elif told.state is not None:
                        if watch is not None:
                            watch(told.state)
                    elif told.outcomes is not None:
                        process.join(_CLOSE_SECONDS)
                        return told.outcomes
                    elif request is not None:
                        # It is there, and reads.
                        ours.send_bytes(request)
                        request = None
                    elif on_evaluation is not None:
                        on_evaluation(told.evaluation)
                process.join(_CLOSE_SECONDS)
                raise ChildLostError(_how_lost(process.pid, process.exitcode))
            finally:
                if process.pid is not None:
                    _end(process)

    def _next(self, connection: Connection) -> _Told | None:
        """The next that the process tells; None once it has ended."""
        while True:
            self._check()
            try:
                if connection.poll(_LOOK_SECONDS):
                    told: _Told = pickle.loads(connection.recv_bytes())
                    return told
            except (EOFError, OSError):
                return None


# ---------------------------------------------------------------------- in the process of the trainings


def _serve(connection: Connection, scratch: str, level: int) -> None:
    """Run the jobs that are sent, and tell what becomes of them."""
    _step_back(scratch)
    lock = threading.Lock()

    def tell(told: _Told) -> None:
        with lock:
            connection.send_bytes(cloudpickle.dumps(told))

    root = logging.getLogger()
    root.handlers = [_Teller(tell)]
    root.setLevel(logging.WARNING)
    logging.getLogger("mtfscalper").setLevel(level)
    tell(_Told())
    executor, jobs = pickle.loads(connection.recv_bytes())
    rl = jobs[0].settings.rl
    set_torch_threads(rl.cpu_count, rl.interop_threads)
    told_at = 0.0

    def on_evaluation(evaluation: Evaluation | None) -> None:
        nonlocal told_at
        now = time.monotonic()
        if evaluation is not None or now - told_at > _LOOK_SECONDS:
            told_at = now
            tell(_Told(evaluation=evaluation))

    try:
        outcomes: list[Outcome] = run_all(executor, jobs, on_evaluation, lambda state: tell(_Told(state=state)))
    except Exception as error:
        outcomes = [error] * len(jobs)
    tell(_Told(outcomes=[_to_send(outcome) for outcome in outcomes]))


def _step_back(scratch: str) -> None:
    """Give way to other processes, and leave nothing behind."""
    tempfile.tempdir = scratch
    threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_at_sigterm()
    own = psutil.Process()
    if hasattr(os, "setpgid"):
        # A group of its own: ended with its workers, and untouched by a Ctrl-C, which the bot hears. No session of its
        # own: Linux gives sessions equal shares of a processor (sched_autogroup), whatever the niceness in them.
        os.setpgid(0, 0)
        own.nice(min(own.nice() + _NICENESS, 19))
    else:
        own.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)  # type: ignore[attr-defined]
    # Other systems than Linux know no such order.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


def end_at_sigterm() -> None:
    """Let SIGTERM end this process as ``sys.exit`` does; further ones change nothing.

    A second one would break into what libraries do as the process ends, with a traceback for each of them.
    """

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)


def _end_with_parent(scratch: str) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    shutil.rmtree(scratch, ignore_errors=True)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class _Teller(logging.Handler):
    """Sends lines for the log to whoever asked for the trainings."""

    def __init__(self, tell: Callable[[_Told], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line, with what cannot be pickled put into words."""
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        self._tell(_Told(record=record))


def _to_send(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Exception):
        words = "".join(traceback.format_exception(outcome)).rstrip()
        outcome.__traceback__ = outcome.__cause__ = outcome.__context__ = None
        try:
            pickle.loads(cloudpickle.dumps(outcome))
        except Exception:
            # An error of somebody's own that cannot be sent: its words can.
            outcome = RuntimeError(f"{type(outcome).__name__}: {outcome}")
        outcome.add_note(f"In the process of the training:\n{words}")
        return outcome
    model, report = outcome
    for name in _ONLY_TRAINING:
        if hasattr(model, name):
            setattr(model, name, None)
    return model, report


# ---------------------------------------------------------------------- in the process that asked


def _log(record: logging.LogRecord) -> None:
    # By this process's clock, which may be a simulated one.
    record.created = time.time()
    record.msecs = record.created % 1 * 1000
    named = logging.getLogger(record.name)
    if named.isEnabledFor(record.levelno):
        named.handle(record)


def _end(process: Any) -> None:
    """End a process and its group, whatever state they are in."""
    if process.is_alive():
        process.terminate()
        process.join(_CLOSE_SECONDS)
    if hasattr(os, "killpg"):
        # It had no group yet, or nobody is left in it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _how_lost(pid: int | None, exitcode: int | None) -> str:
    if exitcode == -signal.SIGKILL:
        return (
            f"the process of the training ({pid}) was killed by signal 9, usually because the machine ran out of "
            "memory; remedy: free memory, or lower freqai.rl_config.n_envs, n_steps or net_arch, freqai.conv_width or "
            "freqai.train_period_days"
        )
    how = (
        f"was ended by signal {-exitcode}"
        if exitcode is not None and exitcode < 0
        else f"ended with exit status {exitcode}"
    )
    return f"the process of the training ({pid}) {how} before it was done; remedy: see what it wrote to the log"
