"""The sampler sees what runs, and attributes processor time to the moments it was used in."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mtfscalper.monitoring import sampler as sampler_module
from mtfscalper.monitoring.sampler import (
    FORKSERVER,
    OTHER,
    ROOT,
    WORKER,
    PeakMemory,
    ProcessReading,
    Recording,
    Sample,
    TreeSampler,
    peak_memory,
    role_of,
)


def reading(pid: int, cpu: float, rss: int = 100, pss: int | None = None, threads: dict[int, float] | None = None):
    return ProcessReading(pid, cpu, rss, pss, len(threads or {}), threads or {})


# A process 1 that uses one processor, and a worker 2 that lives from second 10.5 on and uses half of one.
RECORDING = Recording(
    1,
    {1: ROOT, 2: WORKER},
    (
        Sample(10.0, (reading(1, 5.0, threads={1: 5.0, 7: 0.0}),), 100.0),
        Sample(11.0, (reading(1, 6.0, threads={1: 6.0, 7: 0.2}), reading(2, 0.25)), 102.0),
        Sample(12.0, (reading(1, 7.0, threads={1: 7.0, 7: 0.4}), reading(2, 0.75)), 104.0),
        Sample(13.0, (reading(1, 8.0, threads={1: 8.0, 7: 0.6}),), 106.0),
    ),
)


def test_processor_time_is_spread_evenly_between_samples() -> None:
    assert RECORDING.cpu_seconds([(10.5, 11.5)], ROOT) == pytest.approx(1.0)
    assert RECORDING.cpu_seconds([(11.5, 12.0)], WORKER) == pytest.approx(0.25)
    assert RECORDING.cpu_seconds([(10.0, 10.5), (12.0, 13.0)], ROOT) == pytest.approx(1.5)
    assert RECORDING.cpu_seconds([(10.0, 13.0)]) == pytest.approx(3.0 + 0.75)
    assert RECORDING.machine_busy_seconds([(10.0, 12.0)]) == pytest.approx(4.0)


def test_a_process_used_no_time_before_it_was_born_or_after_it_ended() -> None:
    assert RECORDING.cpu_seconds([(5.0, 10.0), (12.0, 20.0)], WORKER) == 0.0
    # First seen with 0.25 s, which it used since the sample before.
    assert RECORDING.cpu_seconds([(10.0, 11.0)], WORKER) == pytest.approx(0.25)


def test_threads_count_as_computing_from_a_quarter_of_the_time_on() -> None:
    assert RECORDING.computing_threads([(10.0, 13.0)]) == 1
    busier = {1: 9.0, 7: 1.4}
    later = Sample(14.0, (reading(1, 9.0, threads=busier),), 108.0)
    recording = Recording(1, RECORDING.roles, (*RECORDING.samples, later))
    assert recording.computing_threads([(10.0, 14.0)]) == 2
    assert recording.computing_threads([]) is None
    assert recording.most_threads() == 2


def test_workers_are_counted_sample_by_sample() -> None:
    assert [RECORDING.workers_in(sample) for sample in RECORDING.samples] == [set(), {2}, {2}, set()]
    assert len(RECORDING.within(11.0, 12.5)) == 2


def test_peak_memory_is_the_largest_sum_and_prefers_the_proportional_one() -> None:
    roles = {1: ROOT, 2: WORKER}
    samples = (
        Sample(0.0, (reading(1, 0, 900, 800), reading(2, 0, 300, 100)), 0.0),
        # The proportional memory of one process is missing: no sum.
        Sample(1.0, (reading(1, 0, 1000, None), reading(2, 0, 500, 100)), 0.0),
    )
    assert peak_memory(Recording(1, roles, samples)) == PeakMemory(1500, 900, 1000, ROOT)
    assert peak_memory(Recording(1, roles, samples[1:])).pss_bytes is None


def test_roles_follow_from_command_lines() -> None:
    server = ["python", "-c", "from multiprocessing.forkserver import main; main(24, 26, ['mtfscalper.envs.build'])"]
    program = ["python", "-m", "freqtrade", "backtesting"]
    assert role_of(server, program) == FORKSERVER
    assert role_of(server, server) == WORKER
    assert role_of(["python", "-c", "from multiprocessing.spawn import spawn_main; spawn_main()"], program) == WORKER
    assert role_of(["python", "-c", "from multiprocessing.resource_tracker import main; main(23)"], program) == OTHER


# Programs go on once the test has seen what it waits for: they look for files of these names.
AWAIT = """
import pathlib, sys, time

def wait_for(name):
    while not (pathlib.Path(sys.argv[0]).parent / name).exists():
        time.sleep(0.01)
"""
POOL = (
    AWAIT
    + """
import multiprocessing

def work():
    folder = pathlib.Path(sys.argv[0]).parent
    while not (folder / "workers seen").exists():
        pass
    (folder / f"used {{multiprocessing.current_process().name}}").write_text(str(time.process_time()))

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=work) for _ in range(2)]
    [process.start() for process in processes]
    [process.join() for process in processes]
    wait_for("end seen")
""".replace("{{", "{").replace("}}", "}")
)


def until(condition: Callable[[], object]) -> None:
    """Wait for something that happens, however slow the machine is."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def running(tmp_path: Path, program: str) -> Iterator[tuple["subprocess.Popen[bytes]", TreeSampler]]:
    path = tmp_path / "program.py"
    path.write_text(program)
    process = subprocess.Popen([sys.executable, str(path)])
    try:
        with TreeSampler(process.pid, interval_seconds=0.05) as sampler:
            yield process, sampler
            process.wait(120)
    finally:
        process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no forkserver")
def test_forkserver_workers_are_seen_alive_and_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "END_SECONDS", 120)
    with running(tmp_path, POOL) as (_, sampler):

        def workers() -> list[int]:
            recording = sampler.recording
            return [len(recording.workers_in(sample)) for sample in recording.samples]

        def used() -> float:
            recording = sampler.recording
            return recording.cpu_seconds([(recording.samples[0].time, recording.samples[-1].time)], WORKER)

        until(lambda: 2 in workers() and used() > 0.3)
        (tmp_path / "workers seen").touch()
        until(lambda: len(list(tmp_path.glob("used *"))) == 2 and workers()[-1] == 0)
        (tmp_path / "end seen").touch()
    recording = sampler.recording
    counts = [len(recording.workers_in(sample)) for sample in recording.samples]
    assert max(counts) == 2
    assert counts[-1] == 0
    assert sorted(recording.roles.values()).count(FORKSERVER) == 1
    assert recording.left_running == ()
    span = [(recording.samples[0].time, recording.samples[-1].time)]
    # Never more than the workers themselves say, but for how they ended; what they used after the last look at them is
    # not seen.
    true = sum(float(path.read_text()) for path in tmp_path.glob("used *"))
    assert 0.3 < recording.cpu_seconds(span, WORKER) < true + 0.5
    assert recording.cpu_seconds(span, WORKER) <= recording.cpu_seconds(span)
    assert peak_memory(recording).rss_bytes > 10_000_000


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX sessions")
def test_a_process_that_outlives_the_root_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "END_SECONDS", 0.2)
    program = (
        f"{AWAIT}import subprocess\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'], start_new_session=True)\n"
        "wait_for('child seen')\n"
    )
    with running(tmp_path, program) as (process, sampler):
        until(lambda: any(len(sample.processes) == 2 for sample in sampler.recording.samples))
        (tmp_path / "child seen").touch()
    (left,) = sampler.recording.left_running
    assert left != process.pid
    sampler_module.psutil.Process(left).kill()


def test_a_root_that_ends_at_once_leaves_a_recording(tmp_path: Path) -> None:
    with running(tmp_path, "") as (process, sampler):
        process.wait(120)
        # It ends of itself when there is nothing to look at.
        sampler._thread.join(120)
        assert not sampler._thread.is_alive()
    assert sampler.recording.root_pid == process.pid
    assert sampler.recording.left_running == ()
