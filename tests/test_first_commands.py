"""What a new installation begins with: ``init``, ``--version``, help with examples, and completion."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from freqtrade.commands import Arguments

import mtfscalper
from mtfscalper.cli import COMMANDS, build_parser, main
from mtfscalper.command_help import EXAMPLES, epilog, examples, statuses_of
from mtfscalper.first_commands import SHELLS
from mtfscalper.offline import ReplayError, starter
from mtfscalper.offline.starter import Outcome, copy_starter, starter_files
from mtfscalper.study_commands import SUBCOMMANDS

ROOT = Path(__file__).parents[1]


def test_init_copies_every_file_of_the_start_and_says_what_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "new")]) == 0
    copied = {path.relative_to(tmp_path / "new") for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert copied == set(starter_files())
    assert {Path("strategies/MtfScalper_RL_Hybrid.py"), Path("user_data/freqaimodels/MtfScalperRLModel.py")} < copied
    assert Path("configs/config_rl_hybrid.json") in copied
    said = capsys.readouterr().out
    assert said.count("copied") == len(copied)
    assert "mtfscalper demo" in said
    [download] = [line for line in said.splitlines() if "download-data" in line]
    Arguments(shlex.split(download)[1:]).get_parsed_arg()


def test_init_leaves_what_exists_as_it_is_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "strategies" / "MtfScalper_RL_Hybrid.py"
    mine.parent.mkdir()
    mine.write_text("# mine")
    assert main(["init", str(tmp_path)]) == 0
    assert mine.read_text() == "# mine"
    assert f"kept: yours differs from this version's {mine}" in capsys.readouterr().out
    assert {outcome for _, outcome in copy_starter(tmp_path)} == {Outcome.SAME, Outcome.KEPT}


def test_init_into_a_place_that_is_taken_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "configs").write_text("a file")
    assert main(["init", str(tmp_path)]) == 2
    assert "cannot be written" in capsys.readouterr().err
    (tmp_path / "other" / "configs" / "offline.json").mkdir(parents=True)
    with pytest.raises(ReplayError, match=r"offline\.json cannot be written"):
        copy_starter(tmp_path / "other")


def test_an_installation_without_the_files_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "starter_folder", lambda: tmp_path)
    with pytest.raises(ReplayError, match="install mtfscalper again"):
        copy_starter(tmp_path / "new")


def test_a_hyperopts_json_beside_the_strategy_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in starter_files():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    (tmp_path / "strategies" / "MtfScalper_RL_Hybrid.json").write_text("{}")
    files = starter_files()
    monkeypatch.setattr(starter, "starter_folder", lambda: tmp_path)
    assert starter_files() == files


def test_the_version_is_printed_by_the_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mtfscalper", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == f"mtfscalper {mtfscalper.__version__}\n"


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_has_examples_that_parse(command: str) -> None:
    parser = build_parser()
    for typed, meaning in EXAMPLES[command]:
        words = shlex.split(typed.removeprefix('eval "$(').removesuffix(')"'))
        assert words[0] == "mtfscalper"
        args, others = parser.parse_known_args(words[1:])
        assert args.command == command
        if others:
            Arguments(["backtesting", *others]).get_parsed_arg()
            assert args.takes_freqtrades
        assert meaning


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_the_help_of_every_command_shows_its_examples_and_what_each_exit_status_means(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for typed, meaning in EXAMPLES[command]:
        assert " ".join(typed.split()) in said
        assert meaning in said
    assert {"0", "2", "130"} <= set(statuses_of(command))
    assert all(f"{status} {meaning}" in said for status, meaning in statuses_of(command).items())


def test_help_shows_examples_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["audit", "--help"])
    said = capsys.readouterr().out
    assert epilog("audit") in said
    assert "1    some trades are not what training assumed" in said
    assert list(statuses_of("status")) == ["0", "1", "2", "3", "130"]


@pytest.mark.parametrize("subcommand", [command.name for command in SUBCOMMANDS])
def test_help_of_a_studys_subcommand_shows_its_own_examples(
    subcommand: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["study", subcommand, "--help"])
    said, own = capsys.readouterr().out, examples("study", subcommand)
    assert own in said
    assert own.count("mtfscalper study ") == own.count(f"mtfscalper study {subcommand} ") >= 2


@pytest.mark.parametrize("shell", SHELLS)
def test_a_completion_script_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command.name in script for command in COMMANDS)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "mine.json").touch()
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out)

    def completed(*words: str) -> set[str]:
        program = (
            f"source {script}; COMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}; "
            f"COMP_LINE='{' '.join(words)}'; COMP_POINT=${{#COMP_LINE}}; _shtab_mtfscalper mtfscalper '{words[-1]}' "
            f"'{words[-2]}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        done = subprocess.run(
            ["bash", "-c", program], capture_output=True, text=True, cwd=tmp_path, env={"PATH": os.environ["PATH"]}
        )
        return set(done.stdout.split())

    assert {"demo", "report", "replay-exchange"} <= completed("mtfscalper", "")
    assert "--timerange" in completed("mtfscalper", "demo", "--ti")
    assert "mine.json" in completed("mtfscalper", "demo", "--config", "mi")


def test_completion_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install shtab" in capsys.readouterr().err
