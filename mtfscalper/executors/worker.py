"""In a process of trainings: jobs are read, run one at a time, and told of."""

from __future__ import annotations

import gc
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
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import cloudpickle
import psutil

from mtfscalper.executors.executor import Executor, Outcome, run_all
from mtfscalper.executors.sent_jobs import load_sent
from mtfscalper.machine import set_torch_threads
from mtfscalper.sent_errors import SentError
from mtfscalper.training.evaluation import Evaluation
from mtfscalper.training.fit import leave_out_training
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.watching import TrainingState

# How often it shows a sign of life.
_TELL_SECONDS = 0.1
# Added to its niceness: the share of a busy processor that it then gets is a tenth of an ordinary process's.
_NICENESS = 10
# Of a thousand, by which Linux would sooner end it than others where memory is short.
_OOM_SCORE = 500


class Manner(NamedTuple):
    """How a process of trainings lives.

    :ivar scratch: folder of its own for temporary files
    :ivar shared_scratch: folder that goes when whoever started it was killed
    :ivar log_level: of this package's log
    :ivar beside_bot: whether a bot trades beside it, to which it gives way
    """

    scratch: str
    shared_scratch: str
    log_level: int
    beside_bot: bool


class Request(NamedTuple):
    """A job, and how it is run.

    :ivar executor: runs it
    :ivar threads: of torch, intra-op and inter-op
    :ivar is_asked: whether somebody wants to hear of evaluations, and of steps between them
    :ivar is_watched: whether somebody wants to hear how far it is
    """

    executor: Executor
    job: TrainingJob
    threads: tuple[int, int]
    is_asked: bool
    is_watched: bool


class Told(NamedTuple):
    """What the process tells: one of these at a time, and first of all an empty one, as it is there to read.

    :ivar is_life: whether it is a sign of life
    :ivar evaluation: at a sign of life: what was evaluated, or None
    :ivar state: how far a training is
    :ivar record: a line for the log
    :ivar outcome: what became of the job
    """

    is_life: bool = False
    evaluation: Evaluation | None = None
    state: TrainingState | None = None
    record: logging.LogRecord | None = None
    outcome: Outcome | None = None


def serve(connection: Connection, manner: Manner) -> None:
    """Run the jobs that are sent until nobody sends any more, and tell what becomes of them."""
    _settle(manner)
    lock = threading.Lock()

    def tell(told: Told) -> None:
        with lock:
            connection.send_bytes(cloudpickle.dumps(told))

    log_to(tell, manner.log_level)
    tell(Told())
    # Nobody who sends: whoever started this has closed the connection, or is gone.
    with suppress(EOFError, OSError):
        while True:
            outcome = run_request(load_sent(connection.recv_bytes()), tell)
            try:
                tell(Told(outcome=outcome))
            except (TypeError, AttributeError, pickle.PicklingError) as error:
                # What a user's own network holds, say: another try in a new process would end as this one.
                error.add_note("The trained model cannot be sent from the process that trained it.")
                tell(Told(outcome=_to_send(error)))


def log_to(tell: Callable[[Told], None], level: int) -> None:
    """Tell lines for the log, in place of all that this process did with them.

    :param level: of this package's; of others, warnings
    """
    root = logging.getLogger()
    root.handlers = [_Teller(tell)]
    root.setLevel(logging.WARNING)
    logging.getLogger("mtfscalper").setLevel(level)


def run_request(request: Request, tell: Callable[[Told], None]) -> Outcome:
    """Run a job in this process, and tell of it.

    :return: what became of it, such that it can be sent
    """
    return _to_send(_run(request, tell))


def _run(request: Request, tell: Callable[[Told], None]) -> Outcome:
    set_torch_threads(*request.threads)
    told_at = 0.0

    def on_evaluation(evaluation: Evaluation | None) -> None:
        nonlocal told_at
        now = time.monotonic()
        if evaluation is not None or now - told_at > _TELL_SECONDS:
            told_at = now
            tell(Told(is_life=True, evaluation=evaluation))

    def watch(state: TrainingState) -> None:
        tell(Told(state=state))

    try:
        [outcome] = run_all(
            request.executor,
            [request.job],
            on_evaluation if request.is_asked else None,
            watch if request.is_watched else None,
        )
    except Exception as error:
        return error
    return outcome


def _settle(manner: Manner) -> None:
    """Leave nothing behind, and give way to what matters more."""
    # What is imported stays to the end: Python need not go through it whenever it looks for what nobody holds, nor take
    # it apart object by object as the process ends, which took 0.8 of the 3 seconds that one costs.
    gc.freeze()
    os.makedirs(manner.scratch, exist_ok=True)
    tempfile.tempdir = manner.scratch
    threading.Thread(target=_end_with_parent, args=(manner.shared_scratch,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_at_sigterm()
    if hasattr(os, "setpgid"):
        # A group of its own: ended with its workers, and untouched by a Ctrl-C, which whoever started it hears. No
        # session of its own: Linux gives sessions equal shares of a processor (sched_autogroup), whatever the niceness
        # in them.
        os.setpgid(0, 0)
    if manner.beside_bot:
        own = psutil.Process()
        if hasattr(os, "setpgid"):
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

    def __init__(self, tell: Callable[[Told], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line, with what cannot be pickled put into words."""
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        self._tell(Told(record=record))


def _to_send(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Exception):
        sent = SentError.of(outcome)
        sent.error.add_note(f"In the process of the training:\n{sent.words}")
        return sent.error
    leave_out_training(outcome[0])
    return outcome
