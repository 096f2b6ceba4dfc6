"""Trainings on a Ray cluster, with a Ray that is made up: what is done with nodes, losses and errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_training import env_settings_of, parameters, random_tape, same, tiny_settings

from mtfscalper.executors import ray_cluster
from mtfscalper.executors.choice import executor_for, why_executor_cannot_be
from mtfscalper.executors.executor import run_all
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.executors.ray import RayTasks
from mtfscalper.executors.ray_cluster import Cluster, ClusterError, JobNeeds, installed, why_different
from mtfscalper.executors.ray_task import BoardFiles
from mtfscalper.executors.worker_process import WorkerLostError
from mtfscalper.settings import RLSettings, Settings, SettingsError
from mtfscalper.training.job import TrainingJob

ONE_CPU = JobNeeds(cpus=1, gpus=0)


def node(name: str, *, alive: bool = True, **resources: float) -> dict[str, Any]:
    address = {"NodeManagerAddress": name, "NodeManagerHostname": f"{name}.lan", "NodeID": name}
    return {**address, "Alive": alive, "Resources": resources}


class MadeUpRay:
    """Runs each task here, as it is heard.

    :ivar known: nodes
    :ivar losses: for each task that is begun, after how many things told its process is lost; None for never
    :ivar put_away: what was put
    :ivar begun: how many tasks were
    :ivar ended: the tasks that were cancelled
    """

    class exceptions:  # noqa: N801
        class RayError(Exception): ...

        class WorkerCrashedError(RayError): ...

        class NodeDiedError(RayError): ...

        class OutOfMemoryError(RayError): ...

        class ObjectLostError(RayError): ...

        class RayTaskError(RayError):
            cause: Exception | None = None

    def __init__(self, *known: dict[str, Any], losses: tuple[int | None, ...] = ()) -> None:
        self.known, self.losses = list(known), list(losses)
        self.put_away: list[Any] = []
        self.begun = 0
        self.ended: list[Any] = []

    def nodes(self) -> list[dict[str, Any]]:
        return self.known

    def put(self, value: Any) -> int:
        self.put_away.append(value)
        return len(self.put_away) - 1

    def remote(self, **_: Any) -> Callable[[Any], Any]:
        return lambda function: _Remote(self, function)

    def wait(self, streams: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return streams[:1], streams[1:]

    def get(self, told: Any) -> Any:
        return told

    def cancel(self, stream: Any, force: bool) -> None:
        assert force
        self.ended.append(stream)


class _Remote:
    def __init__(self, ray: MadeUpRay, function: Any) -> None:
        self._ray, self._function = ray, function

    def remote(self, sent: bytes, here: Any, level: int, *references: int) -> Iterator[bytes]:
        lost_after = self._ray.losses[self._ray.begun] if self._ray.begun < len(self._ray.losses) else None
        self._ray.begun += 1
        tapes = [self._ray.put_away[reference] for reference in references]
        return self._told(self._function(sent, here, level, *tapes), lost_after)

    def _told(self, stream: Iterator[bytes], lost_after: int | None) -> Iterator[bytes]:
        # To its end first: two trainings at once in one process would draw from the same random numbers.
        for number, told in enumerate(list(stream)):
            if number == lost_after:
                raise self._ray.exceptions.NodeDiedError("the node is gone. And more.")
            yield told


@pytest.fixture(autouse=True)
def log_is_kept() -> Iterator[None]:
    """A node tells all that is logged; here that would be the tests' own."""
    loggers = [logging.getLogger(), logging.getLogger("mtfscalper")]
    handlers, levels = loggers[0].handlers, [one.level for one in loggers]
    yield
    loggers[0].handlers = handlers
    for one, level in zip(loggers, levels, strict=True):
        one.setLevel(level)


def jobs(count: int, **rl: Any) -> list[TrainingJob]:
    settings = tiny_settings(executor="ray", threads_per_job=1, **rl)
    tape = random_tape(100)
    return [
        TrainingJob(settings, tape, None, env_settings_of(settings), seed=seed, period=str(seed))
        for seed in range(count)
    ]


class MadeUp:
    """An executor on a Ray that is made up."""

    together = True

    def __init__(self, ray: MadeUpRay) -> None:
        self.ray = ray

    def start(self, on_evaluation: Any = None, watch: Any = None) -> Any:
        return _Running(RayTasks(Cluster(self.ray, None), ONE_CPU, on_evaluation, watch))


class _Running:
    def __init__(self, tasks: RayTasks) -> None:
        self.tasks = tasks

    def __enter__(self) -> RayTasks:
        return self.tasks

    def __exit__(self, *_: object) -> None:
        self.tasks.close()


# ---------------------------------------------------------------------- trainings


def test_lost_trainings_begin_again_and_give_the_same_bits(tmp_path: Path) -> None:
    made = [replace(job, tensorboard_dir=tmp_path / "board") for job in jobs(2)]
    ray, heard = MadeUpRay(node("a", CPU=2.0), losses=(0, 3)), []
    outcomes = run_all(MadeUp(ray), made, None, heard.append)
    expected = run_all(InlineExecutor(), [replace(job, tensorboard_dir=None) for job in made])
    assert ray.begun == 4
    for ours, theirs in zip(outcomes, expected, strict=True):
        assert not isinstance(ours, Exception)
        assert not isinstance(theirs, Exception)
        assert same(parameters(ours[0]), parameters(theirs[0]))
    # One tape of both, however often they begin.
    assert ray.put_away == [made[0].train]
    assert {(state.name, state.has_ended) for state in heard if state.has_ended} == {(job.name, True) for job in made}
    # Written here, in the folders that stable-baselines3 would have made here.
    assert sorted(path.name for path in (tmp_path / "board").iterdir()) == ["0_1", "1_1"]


def test_a_training_that_is_lost_time_and_again_is_given_up() -> None:
    ray = MadeUpRay(node("a", CPU=1.0), losses=(0, 0, 0, 0))
    [outcome] = run_all(MadeUp(ray), jobs(1))
    assert isinstance(outcome, WorkerLostError)
    assert "lost 4 times: the node is gone; remedy: " in str(outcome)


def test_a_training_that_raises_is_not_begun_again_and_stops_no_other() -> None:
    made = jobs(2)
    made[0] = replace(made[0], initial_model=b"no model")
    ray = MadeUpRay(node("a", CPU=2.0))
    bad, good = run_all(MadeUp(ray), made)
    assert isinstance(bad, Exception)
    assert "In the process of the training:\nTraceback" in bad.__notes__[0]
    assert not isinstance(good, Exception)
    assert ray.begun == 2


def test_what_an_evaluation_raises_ends_its_training() -> None:
    def stop(_: object) -> None:
        raise ZeroDivisionError("enough")

    ray = MadeUpRay(node("a", CPU=1.0))
    [outcome] = run_all(MadeUp(ray), jobs(1, train_cycles=20), stop)
    assert isinstance(outcome, ZeroDivisionError)
    assert len(ray.ended) == 1


def test_a_node_with_other_code_is_named_by_its_first_training(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = MadeUpRay(node("a", CPU=1.0))
    with MadeUp(ray).start() as tasks:
        monkeypatch.setattr(ray_cluster, "installed", lambda: {**installed(), "torch": "0.1"})
        monkeypatch.setattr(ray_cluster, "this_node", lambda: "node 10.0.0.7")
        tasks.submit(jobs(1)[0])
        _, outcome = tasks.next_finished()
    assert isinstance(outcome, ClusterError)
    assert "node 10.0.0.7 has torch 0.1 (here " in str(outcome)


def test_a_node_with_fewer_processors_than_it_was_started_with_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtfscalper.executors.threads.usable_processors", lambda: 1)
    monkeypatch.setattr(ray_cluster, "this_node", lambda: "node 10.0.0.7")
    settings = tiny_settings(executor="ray", threads_per_job=2)
    one = TrainingJob(settings, random_tape(100), None, env_settings_of(settings))
    [outcome] = run_all(MadeUp(MadeUpRay(node("a", CPU=2.0))), [one])
    assert isinstance(outcome, ClusterError)
    assert "node 10.0.0.7: freqai.rl_config.threads_per_job is 2, and this machine has 1 processors" in str(outcome)


def test_no_more_trainings_are_taken_than_run_and_a_quarter() -> None:
    ray = MadeUpRay(node("a", CPU=4.0), node("b", CPU=4.5), node("gone", alive=False, CPU=64.0))
    with MadeUp(ray).start() as tasks:
        assert tasks.room == 10
        tasks.submit(jobs(1)[0])
        assert tasks.room == 9
        tasks.next_finished()
        assert tasks.room == 10
        assert tasks.take_finished() == []
        with pytest.raises(LookupError):
            tasks.next_finished()


# ---------------------------------------------------------------------- the cluster


def test_ray_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", {"ray": None}.get)
    settings = tiny_settings(executor="ray")
    with pytest.raises(ClusterError) as refused, executor_for(settings).start():
        pass
    assert "remedy: pip install 'mtfscalper[ray]', or set executor to 'processes'" in str(refused.value)
    assert "\n" not in str(refused.value)
    # Already before candles are loaded.
    assert why_executor_cannot_be(settings) == str(refused.value)


def rl(**own: Any) -> RLSettings:
    return tiny_settings(**own).rl


def test_a_training_takes_no_more_processors_than_the_largest_node_has_unless_its_threads_are_fixed() -> None:
    cluster = Cluster(MadeUpRay(node("head", CPU=0.0), node("a", CPU=4.0, GPU=2.0), node("b", CPU=2.0)), None)
    assert cluster.needs(rl(cpu_count=8, device="cpu")) == JobNeeds(4, 0)
    assert cluster.needs(rl(cpu_count=1, device="cuda")) == JobNeeds(1, 1)
    assert cluster.needs(rl(cpu_count=1, device="auto")) == JobNeeds(1, 1)
    # With fewer threads it would give other bits than its fingerprint says: no node with fewer runs it.
    assert cluster.needs(rl(threads_per_job=4, device="cpu")) == JobNeeds(4, 0)
    assert cluster.slots(JobNeeds(4, 0)) == 1
    with pytest.raises(ClusterError, match=r"a node with 5 processors; .* or set .*threads_per_job to 4 or less"):
        cluster.needs(rl(threads_per_job=5, device="cpu"))
    assert cluster.slots(JobNeeds(1, 0)) == 6
    assert cluster.slots(JobNeeds(2, 0)) == 3
    assert cluster.slots(JobNeeds(1, 1)) == 2


@pytest.mark.parametrize("known", [(), (node("a", CPU=0.0),), (node("a", CPU=8.0),)])
def test_a_cluster_that_can_run_nothing_says_what_it_lacks(known: tuple[dict[str, Any], ...]) -> None:
    device = "cuda" if known and known[0]["Resources"]["CPU"] else "cpu"
    with pytest.raises(ClusterError) as refused:
        Cluster(MadeUpRay(*known), "10.0.0.1:6379").needs(rl(threads_per_job=2, device=device))
    assert f"none of the {len(known)} nodes of Ray's cluster at 10.0.0.1:6379 runs a training" in str(refused.value)
    assert ("1 GPU" in str(refused.value)) == (device == "cuda")


def test_what_differs_on_a_node_is_named_with_both_versions() -> None:
    here = installed()
    assert {"Python", "mtfscalper", "code of mtfscalper", "torch"} <= set(here)
    assert why_different("node a", here, here) is None
    found = {name: value for name, value in here.items() if name != "numpy"} | {"torch": "0.1", "Python": "3.99"}
    assert why_different("node a", found, here) == (
        f"node a has Python 3.99 (here {here['Python']}), torch 0.1 (here {here['torch']}), "
        f"numpy not installed (here {here['numpy']})"
    )


def test_files_for_tensorboard_take_the_next_free_number(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    (there / "PPO_1").mkdir(parents=True)
    (there / "PPO_1" / "events").write_bytes(b"curves")
    for _ in range(2):
        BoardFiles.of(there).write(here)
    assert {path.relative_to(here).as_posix() for path in here.rglob("events")} == {"PPO_1/events", "PPO_2/events"}


@pytest.mark.parametrize(
    ("rl", "said"),
    [
        ({"executor": "ray", "ray_address": "ray://10.0.0.1:10001"}, "'auto', 'host:port' or null"),
        ({"executor": "inline", "ray_address": "auto"}, "remedy: set executor to 'ray', or remove ray_address"),
        ({"executor": "ray", "device": "cuda:1"}, "remedy: set device to 'cuda'"),
    ],
)
def test_settings_that_no_cluster_can_serve_are_refused(rl: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_config({"freqai": {"rl_config": rl}})
    assert said in str(refused.value)
