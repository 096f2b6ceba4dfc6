"""Trainings on the machines of a Ray cluster. Ray's scheduler alone decides where and when each runs."""

from __future__ import annotations

import logging
import math
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mtfscalper.executors.executor import Outcome
from mtfscalper.executors.followed import Followed
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.executors.outcomes import Outcomes
from mtfscalper.executors.ray_cluster import Cluster, JobNeeds, connected, installed
from mtfscalper.executors.ray_task import BoardFiles, train
from mtfscalper.executors.sent_jobs import SharedTapes, dumps_without_tapes
from mtfscalper.executors.worker import Request
from mtfscalper.executors.worker_process import WorkerLostError, write_log
from mtfscalper.market.tape import MarketTape
from mtfscalper.settings import RLSettings
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.watching import Watch

logger = logging.getLogger(__name__)

# How often it is looked whether to end what runs, and whether there is something new to hear.
_LOOK_SECONDS = 0.1
# How often the nodes are counted, which come and go.
_COUNT_SECONDS = 5.0
# Of the trainings that run at once, how many more are at hand, so that no node waits for the next.
AHEAD = 0.25
# How often a training is begun whose node or process is lost.
_TRIES = 4


class RayExecutor:
    """Runs each job as a task of Ray. See :class:`mtfscalper.executors.executor.Executor`.

    A job whose node or process is lost is begun again elsewhere, and gives the same; one that raises is not. What it
    gives comes back as bytes, files for TensorBoard too: no node needs to see this machine's disk.
    """

    together = True

    def __init__(self, rl: RLSettings) -> None:
        """
        :param rl: says where the cluster is, and what a training takes of it
        """
        self._rl = rl

    @contextmanager
    def start(self, on_evaluation: OnEvaluation | None = None, watch: Watch | None = None) -> Iterator[RayTasks]:
        """See :meth:`mtfscalper.executors.executor.Executor.start`; ``on_evaluation`` hears None several times a second
        at most, and both are called by a thread of the executor's own.

        :raises mtfscalper.executors.ray_cluster.ClusterError: if the cluster cannot be used
        """
        with connected(self._rl.ray_address) as cluster:
            needs = cluster.needs(self._rl)
            cluster.check_nodes(needs)
            tasks = RayTasks(cluster, needs, on_evaluation, watch)
            logger.info(
                "%s runs %d trainings at once, of %d processors%s each.",
                cluster.name,
                cluster.slots(needs),
                needs.cpus,
                f" and {needs.gpus} GPU" if needs.gpus else "",
            )
            try:
                yield tasks
            finally:
                tasks.close()


@dataclass(eq=False)
class _Task:
    """
    :ivar arguments: of :func:`mtfscalper.executors.ray_task.train`
    :ivar tries: how often it was begun
    """

    job: TrainingJob
    arguments: list[Any] = field(default_factory=list)
    tries: int = 0


class RayTasks:
    """Trainings on a cluster. See :class:`mtfscalper.executors.executor.Running`.

    A thread hears the tasks, so that all is shown while whoever submits jobs makes the next one.
    """

    def __init__(
        self, cluster: Cluster, needs: JobNeeds, on_evaluation: OnEvaluation | None, watch: Watch | None
    ) -> None:
        """
        :param needs: what each training takes of a node
        """
        self._cluster, self._needs, self._ray = cluster, needs, cluster.ray
        self._on_evaluation = on_evaluation
        self._watch, self._is_watched = Followed(watch), watch is not None
        # Ray would begin a lost task again itself, but passes over as many of the things that it tells as were heard
        # before: one that tells less the second time loses its outcome.
        self._train = self._ray.remote(num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=0)(train)
        # What nobody refers to any more Ray removes by itself.
        self._tapes: SharedTapes[Any] = SharedTapes(self._ray.put, lambda _: None)
        self._here = installed()
        self._slots = cluster.slots(needs)
        self._outcomes = Outcomes()
        self._changed = self._outcomes.changed
        self._streams: dict[Any, _Task] = {}
        self._failure: Exception | None = None
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, args=(work,), name="ray tasks", daemon=True)
            for work in (self._hear_all, self._count_nodes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def room(self) -> int:
        """See :attr:`mtfscalper.executors.executor.Running.room`; as the nodes come and go."""
        with self._changed:
            # Where no node is there at the moment one more job waits for it.
            return max(math.ceil(self._slots * (1 + AHEAD)), 1) - self._outcomes.unreturned

    def submit(self, job: TrainingJob) -> None:
        """See :meth:`mtfscalper.executors.executor.Running.submit`."""
        task, tapes = _Task(job), list[Any]()

        def place_of(tape: MarketTape) -> int:
            tapes.append(self._tapes.place_of(tape, task))
            return len(tapes) - 1

        rl = job.settings.rl
        threads = self._needs.cpus, rl.interop_threads
        request = Request(InlineExecutor(), job, threads, self._on_evaluation is not None, self._is_watched)
        sent = dumps_without_tapes(request, place_of)
        level = logging.getLogger("mtfscalper").getEffectiveLevel()
        task.arguments = [sent, self._here, level, *tapes]
        with self._changed:
            self._outcomes.expect()
            self._begin(task)

    def next_finished(self) -> tuple[TrainingJob, Outcome]:
        """See :meth:`mtfscalper.executors.executor.Running.next_finished`."""
        ended = self._outcomes.next(self._fails)
        assert ended is not None
        return ended

    def take_finished(self) -> list[tuple[TrainingJob, Outcome]]:
        """See :meth:`mtfscalper.executors.executor.Running.take_finished`."""
        return self._outcomes.take()

    def close(self) -> None:
        """End all tasks, with the processes that they run in."""
        self._closing.set()
        for thread in self._threads:
            thread.join()
        for stream in self._streams:
            self._ray.cancel(stream, force=True)

    # ---------------------------------------------------------------------- the threads'

    def _fails(self) -> bool:
        if self._failure is not None:
            raise self._failure
        return False

    def _begin(self, task: _Task) -> None:
        task.tries += 1
        self._streams[self._train.remote(*task.arguments)] = task
        self._changed.notify_all()

    def _serve(self, work: Callable[[], None]) -> None:
        try:
            while not self._closing.is_set():
                work()
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _count_nodes(self) -> None:
        if self._closing.wait(_COUNT_SECONDS):
            return
        slots = self._cluster.slots(self._needs)
        with self._changed:
            had, self._slots = self._slots, slots
            waits = bool(self._streams)
        if waits and had and not slots:
            logger.warning(
                "No node of %s is left that runs a training; %d wait for one (`ray start --address=...`).",
                self._cluster.name,
                len(self._streams),
            )

    def _hear_all(self) -> None:
        with self._changed:
            if not self._streams:
                self._changed.wait(_LOOK_SECONDS)
            streams = list(self._streams)
        ready, _ = self._ray.wait(streams, timeout=_LOOK_SECONDS) if streams else ([], [])
        for stream in ready:
            with self._changed:
                # To the end, so that no talkative one keeps others from being heard.
                task = self._streams[stream] = self._streams.pop(stream)
            self._hear(stream, task)

    def _hear(self, stream: Any, task: _Task) -> None:
        errors = self._ray.exceptions
        lost = (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError, errors.ObjectLostError)
        try:
            told = pickle.loads(self._ray.get(next(stream)))
            if isinstance(told, BoardFiles):
                if task.job.tensorboard_dir is not None:
                    told.write(task.job.tensorboard_dir)
            elif told.record is not None:
                write_log(told.record)
            elif told.state is not None:
                self._watch(told.state)
            elif told.outcome is not None:
                self._finish(stream, told.outcome)
            elif self._on_evaluation is not None:
                self._on_evaluation(told.evaluation)
        except StopIteration:
            self._lose(stream, "its process ended without a result")
        except lost as error:
            self._lose(stream, " ".join(str(error).split(".")[0].split()))
        except errors.RayTaskError as error:
            self._finish(stream, error.cause if isinstance(error.cause, Exception) else error)
        except Exception as error:
            self._ray.cancel(stream, force=True)
            self._finish(stream, error)

    def _finish(self, stream: Any, outcome: Outcome) -> None:
        with self._changed:
            task = self._streams.pop(stream)
            self._tapes.let_go(task)
            self._outcomes.add(task.job, outcome)
        self._watch.end(task.job)

    def _lose(self, stream: Any, how: str) -> None:
        """A task has ended with its process or its node."""
        task = self._streams[stream]
        if task.tries >= _TRIES:
            remedy = "remedy: see the memory of the nodes, and Ray's logs on them (/tmp/ray/session_latest/logs)"
            self._finish(stream, WorkerLostError(f"{task.job.name}: lost {task.tries} times: {how}; {remedy}"))
            return
        logger.warning("%s: %s. It is trained again, from its beginning.", task.job.name, how)
        with self._changed:
            del self._streams[stream]
            self._begin(task)
