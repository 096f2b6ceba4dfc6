"""The benchmarks of training on a device run where there is no GPU, and with no more than a borrowed machine has."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
CARRIED = (BENCHMARKS / "gpu_check_packages.txt").read_text(encoding="utf-8").split()
# What a borrowed machine has, beside what these require themselves.
INSTALLED = ("torch", "numpy", "pandas")
# Python imports it before anything else: from then on no other package is to be found.
SITECUSTOMIZE = f"""
import atexit, json, os, re, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from importlib.metadata import distribution, packages_distributions, PackageNotFoundError

def plain(name):
    return re.sub("[-_.]+", "-", name).lower()

def with_requirements(names):
    found, open_ = set(), list(names)
    while open_:
        name = plain(open_.pop())
        if name not in found:
            found.add(name)
            try:
                required = distribution(name).requires or []
            except PackageNotFoundError:
                continue
            open_ += [re.match("[A-Za-z0-9._-]+", line)[0] for line in required if "extra ==" not in line]
    return found

carried = set(map(plain, {CARRIED!r}))
allowed = carried | with_requirements({INSTALLED!r})
owners = {{module: set(map(plain, names)) for module, names in packages_distributions().items()}}
outside = {{module for module, names in owners.items() if not names & allowed and "mtfscalper" not in names}}

class Narrow:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in outside else PathFinder.find_spec(name, path, target)

    invalidate_caches = PathFinder.invalidate_caches

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Narrow]

@atexit.register
def tell():
    modules = {{name.partition(".")[0] for name in sys.modules}}
    used = set().union(*(owners.get(module, set()) for module in modules))
    try:
        import freqtrade
    except ImportError:
        with open(os.path.join(os.environ["OUT"], f"{{os.getpid()}}.used"), "w") as file:
            json.dump({{"carried": sorted(carried & used), "outside": sorted(modules & outside)}}, file)
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``gpu_check.sh --toy`` leaves, where only the carried packages are to be found."""
    folder, site = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
    environment = {"OUT": str(folder), "PYTHON": sys.executable, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = ["bash", str(BENCHMARKS / "gpu_check.sh"), "--toy"]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts' own modules can be imported."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_training_runs_with_the_carried_packages_alone_and_needs_each_of_them(out: Path) -> None:
    told = [read(path) for path in out.glob("*.used")]
    # One of the checks, one of the measuring, and those of shorter commands; freqtrade was found by none.
    assert len(told) >= 2
    assert all(one["outside"] == [] for one in told)
    used = set().union(*(one["carried"] for one in told))
    assert used == {name.replace("_", "-").lower() for name in CARRIED}


def made_in(script: Path) -> set[str]:
    """The names that a script makes, its imports from elsewhere left out."""
    made: set[str] = set()
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif not isinstance(node, (ast.Import, ast.ImportFrom)):
            made |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return made


def test_what_one_script_takes_of_another_is_made_there() -> None:
    scripts = {script.stem: script for script in BENCHMARKS.glob("*.py")}
    taken = [
        (script.name, node.module, name.name)
        for script in scripts.values()
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module in scripts
        for name in node.names
    ]
    assert len(taken) > 50
    assert [one for one in taken if one[2] not in made_in(scripts[one[1]])] == []


def test_the_carried_packages_are_locked() -> None:
    locked = {line.partition("==")[0] for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()}
    assert set(CARRIED) <= locked


def test_every_check_compares_something_and_passes(out: Path) -> None:
    checks = {check["name"]: check for check in read(out / "device_checks.json")["checks"]}
    modes = ("classic", "gated", "agent")
    compared = ("fills and ends that differ", "money", "observations and rewards")
    assert {f"{mode}: {what}" for mode in modes for what in compared} < checks.keys()
    assert {
        "update against FusedPPO's on the CPU",
        "member of three against itself: first rollout's actions",
        "member of three against itself: second rollout's actions",
        "member of three against itself: parameters",
    } < checks.keys()
    assert all(check["passes"] for check in checks.values())


def test_everything_is_measured(out: Path) -> None:
    measured = read(out / "bench_device.json")
    assert (measured["failed"], measured["skipped"]) == ({}, [])
    assert measured["device"].startswith("CPU")
    assert measured["populations"].keys() == {"K = 1, batch 16", "K = 2, batch 16"}
    assert measured["larger_batches"].keys() == {"K = 1, batch 32"}
    for figures in (*measured["populations"].values(), *measured["larger_batches"].values()):
        names = ("rollout_seconds", "update_seconds", "evaluation_seconds", "samples_per_second", "minibatch_us")
        assert all(figures[name] > 0 for name in (*names, "share_of_measured_peak", "member_bytes_mib"))
        assert "member_mib" in figures
    ours, *rivals = measured["rivals"].values()
    assert ours["x_of_one"] == 1.0
    assert len(rivals) == 2
    assert all(rival["x_of_one"] > 0 and rival["x_of_most"] > 0 for rival in rivals)
    assert len(measured["environments"]) == 2
    [mission] = measured["mission"].values()
    assert mission["trained_at_once"] == 10


@pytest.mark.usefixtures("benchmarks")
def test_an_environment_that_computes_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    device_checks = importlib.import_module("device_checks")
    env_checks = importlib.import_module("env_checks")
    torch = importlib.import_module("torch")
    task = device_checks.Task(device_checks.CHECKED, "cpu", "fp32")
    job = task.job(0)

    def found(**options: Any) -> list[bool]:
        checks = env_checks.environments(job.train, job.env, torch.device("cpu"), 20, **options)
        return [check.passes for check in checks]

    def as_it_is(function: Any) -> Any:
        return function

    assert found() == found(compiler=as_it_is) == [True, True, True]
    step = env_checks.DeviceEnv.step
    monkeypatch.setattr(env_checks.DeviceEnv, "step", lambda self, actions, draws: step(self, actions * 0 + 1, draws))
    assert found() == found(compiler=as_it_is) == [False, False, False]


@pytest.mark.usefixtures("benchmarks")
def test_a_difference_without_a_number_fails() -> None:
    comparison = importlib.import_module("comparison")
    nan = float("nan")
    assert comparison.difference([1.0, nan, 2.0], [1.0, nan, 2.5]) == 0.5
    assert not comparison.Check("", comparison.difference([nan], [1.0]), 1.0, "").passes
    assert not comparison.Check("", comparison.largest([1.0, nan]), 2.0, "").passes


@pytest.mark.parametrize(("apart", "passes"), [(0.15, True), (0.29, False), (float("nan"), False)])
@pytest.mark.usefixtures("benchmarks")
def test_an_update_that_rounding_does_not_explain_is_not_equal(apart: float, passes: bool) -> None:
    bench_ppo = importlib.import_module("bench_ppo")
    measured = {"FusedPPO fp32, lookback 1": apart, "SB3, last bits off, lookback 1": 0.14, "SB3, one thread": 0.12}
    check = bench_ppo.equality_check(
        {name: {"norm_of_difference_over_movement": value} for name, value in measured.items()}
    )
    assert check.tolerance == pytest.approx(0.28)
    assert check.passes is passes


@pytest.mark.usefixtures("benchmarks")
def test_kernels_that_overlap_count_once() -> None:
    kernels = importlib.import_module("kernels")
    # 0 to 4, of which 1 to 2 and 3 to 4 twice; then 6 to 7.
    assert kernels.covered([(6.0, 1.0), (0.0, 3.0), (1.0, 1.0), (2.5, 1.5), (3.0, 1.0)]) == 5.0
    assert kernels.covered([]) == 0.0
    events = [
        {"cat": "kernel", "name": "gemm", "ts": 10.0, "dur": 2.0},
        {"cat": "kernel", "name": "adam", "ts": 11.0, "dur": 2.0},
        {"cat": "gpu_memcpy", "name": "Memcpy DtoH", "ts": 20.0, "dur": 5.0},
        {"cat": "cuda_runtime", "name": "cudaGraphLaunch", "ts": 9.0, "dur": 1.0},
        {"ph": "M"},
    ]
    assert kernels.kernel_times(events, 1e-5) == (1e-5, pytest.approx(3e-6), 2, 1)


@pytest.mark.usefixtures("benchmarks")
def test_a_part_that_fails_or_comes_too_late_is_named_and_the_others_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = importlib.import_module("record")
    path = tmp_path / "figures.json"
    record = records.Record(path, {"device": "CPU"}, 60.0)
    record.part(("populations", "one"), lambda: {"members": 1})
    record.part(("populations", "two"), lambda: 1 / 0)
    written = read(path)
    assert written["populations"] == {"one": {"members": 1}}
    assert written["failed"] == {"populations, two": "ZeroDivisionError: division by zero"}
    late = records.Record(path, {}, -1.0)
    late.part(("mission",), lambda: pytest.fail("it was begun"))
    assert late.figures["skipped"] == ["mission"]
    assert "skipped, no time left of -1 s: mission" in capsys.readouterr().out
