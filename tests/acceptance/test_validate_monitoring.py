"""validate_monitoring.py as a user types it: a sound run passes, a broken one fails on the right lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_validation import ROOT, TIMERANGE, write_candles, write_configs

from mtfscalper.artefacts import file_hash
from mtfscalper.monitoring.timing import Timed
from mtfscalper.offline import OFFLINE_USER_DATA

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def datadir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_candles(tmp_path_factory.mktemp("market"))


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return write_configs(tmp_path_factory.mktemp("config"))


def validated(
    datadir: Path, configs: tuple[Path, ...], json_path: Path, **environment: str
) -> tuple[int, str, dict[str, Any]]:
    """Run the script: exit status, output, and the JSON it wrote. Its log is removed."""
    command = [sys.executable, str(ROOT / "validate_monitoring.py"), "--datadir", str(datadir)]
    # As little timing as there can be: what it finds is up to the machine.
    command += ["--timerange", TIMERANGE, "--seconds", "20", "--json", str(json_path)]
    for config in configs:
        command += ["--config", str(config)]
    variables = {key: value for key, value in os.environ.items() if not key.startswith("FREQTRADE__")}
    done = subprocess.run(command, env=variables | environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    log = Path(next(line.split()[1] for line in output.splitlines() if line.startswith("log ")))
    # freqtrade wraps its lines at the width of the terminal.
    assert "Backtesting with data from" in " ".join(log.read_text().split())
    log.unlink()
    return done.returncode, output, json.loads(json_path.read_text())


def failed_lines(written: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The checks that failed, by name; not those of speed, which are up to the machine."""
    slow = {"speed", "machine"}
    checks = [check for check in written["checks"] if check["group"] not in slow or check["name"] == "timed alone"]
    return {check["name"]: check for check in checks if check["verdict"] == "FAILED"}


def timed_in(written: dict[str, Any]) -> dict[str, Any]:
    """What was timed, by name; JSON holds it as a list."""
    return dict(zip(Timed._fields, written["facts"]["timed"]["timed"], strict=True))


def everything_in(*folders: Path) -> dict[Path, str]:
    return {path: file_hash(path) for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_a_sound_run_passes_and_leaves_everything_as_it_was(
    datadir: Path, configs: tuple[Path, ...], tmp_path: Path
) -> None:
    users = everything_in(datadir, configs[1].parent)
    status, output, written = validated(datadir, configs, tmp_path / "facts.json")
    assert failed_lines(written) == {}, output
    assert (status == 0) is written["passed"]
    assert all(check["name"] in output for check in written["checks"])
    facts = written["facts"]
    assert facts["trades"]["total"] > 0
    (period,) = facts["periods"]
    assert len(period["watched"]["worker_pids"]) == 2
    assert period["watched"]["worker_pids"] == sorted(period["report"]["worker_pids"])
    # 1,036 candles trained on, in rollouts of 2 x 128.
    assert period["report"]["timesteps"] == 1280
    assert period["saved"]["policy_layers"] == [32, 16]
    timed = timed_in(written)
    assert {key for key, _, _ in timed["beside"]} >= {"vec_env", "interop_threads"}
    # Each way could run.
    assert timed["problems"] == [], output
    assert everything_in(datadir, configs[1].parent) == users
    (identifier,) = {
        change["after"].strip('"') for change in written["changes"] if change["key"] == "freqai.identifier"
    }
    assert not list((ROOT / OFFLINE_USER_DATA).rglob(f"{identifier}*"))


@pytest.mark.parametrize("vec_env", ["batched", "dummy", "torch"])
def test_what_can_be_advised_passes_in_turn(
    datadir: Path, configs: tuple[Path, ...], tmp_path: Path, vec_env: str
) -> None:
    advised = tmp_path / "advised.json"
    changes = {"vec_env": vec_env, "cpu_count": 1, "interop_threads": 1, "precision": "fp32"}
    advised.write_text(json.dumps({"freqai": {"rl_config": changes}}))
    _, output, written = validated(datadir, (*configs, advised), tmp_path / "facts.json")
    assert failed_lines(written) == {}, output
    assert timed_in(written)["yours"] == [vec_env, 1, 1, "fp32", written["facts"]["asked"]["device"]]


# Runs in the interpreter of freqtrade alone, before anything else.
NO_PROCESSES = """
import sys

if "backtesting" in sys.orig_argv:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    def refuse(*arguments, **keywords):
        raise OSError("no more processes")

    SubprocVecEnv.__init__ = refuse
"""


def test_a_sabotaged_run_fails_on_its_lines(datadir: Path, configs: tuple[Path, ...], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_PROCESSES)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    status, output, written = validated(
        datadir,
        configs,
        tmp_path / "facts.json",
        PYTHONPATH=path,
        # freqtrade lets the environment override what the configuration files say.
        FREQTRADE__FREQAI__RL_CONFIG__NET_ARCH="[16, 16, 16]",
    )
    assert status == 1, output
    assert not written["passed"]
    failed = failed_lines(written)
    assert set(failed) == {
        "settings in force",
        "vector environment",
        "worker processes",
        "policy network",
        "value network",
    }
    assert failed["vector environment"]["seen"] == "DummyVecEnv x 2"
    assert failed["worker processes"]["seen"].startswith("0 in ")
    assert failed["policy network"]["seen"] == "[16, 16, 16]"
    assert failed["policy network"]["expected"] == "[32, 16]"
    assert "FREQTRADE__FREQAI__RL_CONFIG__NET_ARCH" in failed["settings in force"]["remedy"]
