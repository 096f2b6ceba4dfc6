"""The unit and the compose file of docs/service.md keep a bot alive, and say of it what the docs say."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from freqtrade.commands import Arguments

from mtfscalper.cli import build_parser
from mtfscalper.monitoring.bot_status import Level

PAGE = (Path(__file__).parents[1] / "docs" / "service.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# freqtrade's exit status after SIGTERM.
INTERRUPTED = 130
# A bot's longest stop, and a training's update that is finished before it.
LONGEST_STOP_SECONDS = 60


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(PAGE) if found == language]


def ini(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser


@pytest.fixture(scope="module")
def unit() -> configparser.ConfigParser:
    [found] = [parsed for parsed in map(ini, blocks("ini")) if "Service" in parsed]
    return found


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    [text] = blocks("yaml")
    [found] = yaml.safe_load(text)["services"].values()
    return dict(found)


def test_systemd_starts_a_bot_again_however_often_it_ends(unit: configparser.ConfigParser) -> None:
    # Outages last minutes or hours, and a bot ends at its start while the exchange does not answer.
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert unit["Service"]["Restart"] == "always"
    assert 1 <= int(unit["Service"]["RestartSec"]) <= 60


def test_systemd_stops_a_bot_as_it_expects_and_outlives_its_trainings(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert (service["KillMode"], service["OOMPolicy"]) == ("mixed", "continue")
    assert int(service["TimeoutStopSec"]) >= LONGEST_STOP_SECONDS
    assert int(service["SuccessExitStatus"]) == INTERRUPTED
    program, *arguments = service["ExecStart"].split()
    assert program.endswith("/freqtrade")
    assert Arguments(arguments).get_parsed_arg()["command"] == "trade"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path, unit: configparser.ConfigParser) -> None:
    program = unit["Service"]["ExecStart"].split()[0]
    path = tmp_path / "freqtrade.service"
    # Programs have to be there for it, files and users have not.
    [text] = [text for text in blocks("ini") if "[Service]" in text]
    path.write_text(text.replace(program, shutil.which("true") or "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if path.name in line]
    assert said == []


def test_logs_are_bounded(service: dict[str, Any]) -> None:
    [journal] = [parsed for parsed in map(ini, blocks("ini")) if "Journal" in parsed]
    assert re.fullmatch(r"\d+[MG]", journal["Journal"]["SystemMaxUse"])
    options = service["logging"]["options"]
    assert service["logging"]["driver"] == "json-file"
    assert re.fullmatch(r"\d+m", options["max-size"])
    # Compose takes text alone for a driver's options.
    assert isinstance(options["max-file"], str)
    assert int(options["max-file"]) >= 2


def test_docker_starts_a_bot_again_and_gives_it_time_to_stop(service: dict[str, Any]) -> None:
    assert service["restart"] == "unless-stopped"
    assert service["init"] is True
    [minutes] = re.findall(r"^(\d+)m$", service["stop_grace_period"])
    assert int(minutes) * 60 >= LONGEST_STOP_SECONDS
    assert Arguments(service["command"].split()).get_parsed_arg()["command"] == "trade"


@pytest.mark.skipif(os.name == "nt", reason="the check is one of a shell")
@pytest.mark.parametrize(
    ("level", "status"), [(Level.OK, 0), (Level.WARNING, 0), (Level.CRITICAL, 1), (Level.UNKNOWN, 1)]
)
def test_docker_calls_a_bot_ill_at_what_is_critical_or_unknown(
    tmp_path: Path, service: dict[str, Any], level: Level, status: int
) -> None:
    kind, command = service["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    # Compose reads $$ as $, and a single one as a variable of its own.
    assert not re.search(r"(?<!\$)\$(?!\$)", command)
    command = command.replace("$$", "$")
    asked = command.split(" || ")[0].split()
    assert asked[0] == "mtfscalper"
    build_parser().parse_args(asked[1:])
    program = tmp_path / "mtfscalper"
    program.write_text(f"#!/bin/sh\nexit {int(level)}\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["/bin/sh", "-c", command], env=environment, check=False)
    assert done.returncode == status
