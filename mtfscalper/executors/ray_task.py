"""On a node of a Ray cluster: one job is run, and told of as a stream of bytes."""

from __future__ import annotations

import logging
import queue
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cloudpickle
from stable_baselines3.common.utils import get_latest_run_id

from mtfscalper.artefacts import write_bytes
from mtfscalper.executors.ray_cluster import check_installed, check_threads
from mtfscalper.executors.sent_jobs import loads_with_tapes
from mtfscalper.executors.worker import Request, Told, log_to, run_request
from mtfscalper.market.tape import MarketTape

logger = logging.getLogger(__name__)


class BoardFiles(NamedTuple):
    """What a training has written for TensorBoard on its node.

    :ivar files: by their paths in the folder for it: that of the training, and a file
    """

    files: Mapping[str, bytes]

    @classmethod
    def of(cls, folder: Path) -> BoardFiles:
        """The files of a folder."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return cls({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})

    def write(self, folder: Path) -> None:
        """Write them, each training's under the next number that is free there, as stable-baselines3 counts."""
        numbered: dict[str, str] = {}
        for name, content in self.files.items():
            run, _, file = name.partition("/")
            if run not in numbered:
                board = run.rpartition("_")[0]
                numbered[run] = f"{board}_{get_latest_run_id(str(folder), board) + 1}"
            write_bytes(folder / numbered[run] / file, content)


def train(sent: bytes, here: Mapping[str, str], log_level: int, *tapes: MarketTape) -> Iterator[bytes]:
    """Run a job, and yield what is to be told of it, pickled: in the end its files for TensorBoard and its outcome.

    :param sent: a :class:`mtfscalper.executors.worker.Request`, its tapes replaced by their places among ``tapes``
    :param here: what is installed on the machine of the run
    :param log_level: of this package's log
    :raises ClusterError: if something else is installed on this node. That it has fewer processors than the training
        threads becomes of the job
    """
    check_installed(here)
    # The training calls whoever watches it, and a generator yields: one thread for each.
    told: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def tell(one: Told | BoardFiles) -> None:
        told.put(cloudpickle.dumps(one))

    def run() -> None:
        try:
            request: Request = loads_with_tapes(sent, tapes.__getitem__)
            check_threads(request.job.settings.rl)
            with tempfile.TemporaryDirectory(prefix="rl-", ignore_cleanup_errors=True) as folder:
                board = Path(folder) / "board"
                if request.job.tensorboard_dir is not None:
                    request = request._replace(job=replace(request.job, tensorboard_dir=board))
                outcome = run_request(request, tell)
                if board.is_dir():
                    tell(BoardFiles.of(board))
            tell(Told(outcome=outcome))
        except Exception as error:
            tell(Told(outcome=error))
        finally:
            told.put(None)

    log_to(tell, log_level)
    threading.Thread(target=run, name="training", daemon=True).start()
    while (one := told.get()) is not None:
        yield one
