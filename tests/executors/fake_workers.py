"""Processes of trainings that are none: they do what a test says, when it says so."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
from tiny_training import env_settings_of, random_tape, tiny_settings

from mtfscalper.executors.sent_jobs import load_sent
from mtfscalper.executors.worker import Request, Told
from mtfscalper.executors.worker_process import WorkerProcess
from mtfscalper.market.tape import MarketTape
from mtfscalper.training.job import TrainingJob

TAPE = random_tape(20)


def job(period: str, tape: MarketTape = TAPE, **rl: Any) -> TrainingJob:
    settings = tiny_settings(**rl)
    return TrainingJob(settings, tape, None, env_settings_of(settings), period=period)


class FakeWorker:
    """Runs one job at a time, until the test ends it or it.

    :ivar requests: that it was sent
    """

    def __init__(self, crew: FakeCrew, number: int) -> None:
        self.connection, self._its = multiprocessing.Pipe()
        self._crew, self.number = crew, number
        self.requests: list[Request] = []
        self.is_ended = self.is_lost = False

    def tell(self, told: Told) -> None:
        self._its.send_bytes(cloudpickle.dumps(told))

    def finish(self) -> None:
        """End its job with an outcome that names both."""
        self.tell(Told(outcome=(self.number, self.requests[-1].job.period)))  # type: ignore[arg-type]

    def die(self) -> None:
        """End as one that is killed."""
        self.is_lost = True
        self._its.close()

    hear = WorkerProcess.hear

    def send(self, request: bytes) -> None:
        self.requests.append(load_sent(request))
        self._crew.on_begin(self)
        self._crew.begun.release()

    def how_lost(self) -> str:
        return f"worker {self.number} is lost"

    def ask_to_end(self) -> None: ...

    def end(self, seconds: float) -> None:
        self.is_ended = True
        self._its.close()


class FakeCrew:
    """Starts such processes.

    :ivar most: so many at a time can be started
    :ivar on_begin: what each does with a job it is sent
    :ivar on_start: what each does as it is started: it says that it is there
    :ivar begun: is released once for each job that is begun
    """

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self.workers: list[FakeWorker] = []
        self.begun = threading.Semaphore(0)
        self.on_begin: Callable[[FakeWorker], None] = lambda worker: None
        self.on_start: Callable[[FakeWorker], None] = lambda worker: worker.tell(Told())

    @property
    def alive(self) -> list[FakeWorker]:
        return [worker for worker in self.workers if not worker.is_ended and not worker.is_lost]

    def start(self, scratch: Path, number: int) -> FakeWorker:
        if len(self.alive) >= self.most:
            raise OSError("no more processes")
        worker = FakeWorker(self, number)
        self.workers.append(worker)
        self.on_start(worker)
        return worker

    def wait_begun(self, jobs: int) -> None:
        """Until so many more jobs have been begun."""
        for _ in range(jobs):
            assert self.begun.acquire(timeout=120)
