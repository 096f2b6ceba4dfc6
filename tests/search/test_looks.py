"""Looks at locked candles are counted over all studies of a user directory that have locked the same ones."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial
from rich.console import Console
from search.judged_studies import CODE, make_spec, make_study, runs

from mtfscalper import artefacts
from mtfscalper.search.errors import StudyError
from mtfscalper.search.judge import judge
from mtfscalper.search.judge_command import print_judgement
from mtfscalper.search.judgements import Judgement
from mtfscalper.search.looks import ELSEWHERE, SharedLooks, looks_of, looks_of_others, overlaps
from mtfscalper.search.study_folder import StudyFolder

LATER = "20240410-20240520"


@pytest.fixture(autouse=True)
def _same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "code_hash", lambda: CODE)


def begun(home: Path, name: str, **changes: Any) -> tuple[StudyFolder, list[FrozenTrial]]:
    folder = StudyFolder.of(home, name)
    trials, _ = make_study(folder)
    folder.write_spec(make_spec(name=name, **changes))
    return folder, trials


def look_at(folder: StudyFolder, trials: list[FrozenTrial], number: int = 0) -> Judgement:
    return judge(folder, trials, trials[number], runs()[0])[0]


def low(judgement: Judgement) -> float:
    [gate] = [gate for gate in judgement.gates if gate.key == "interval"]
    assert gate.value is not None
    return gate.value


def test_another_study_on_the_same_candles_does_not_begin_to_count_anew(tmp_path: Path) -> None:
    first = look_at(*begun(tmp_path, "first"))
    second_study = begun(tmp_path, "second")
    second = look_at(*second_study)
    assert (first.look, first.level, first.looks_of_others) == (1, 0.9, {})
    assert (second.look, second.looks_of_others) == (2, {"first": 1})
    assert second.level == pytest.approx(0.95)
    # The same candles and the same trades: what was asked is more.
    assert second.difference == first.difference
    assert low(second) < low(first)
    third = look_at(*second_study, number=1)
    assert (third.look, third.looks_of_others) == (3, {"first": 1})
    assert (looks_of(second_study[0]), looks_of_others(*_with_spec(second_study[0]))) == (2, {"first": 1})
    # In JSON and in the table.
    assert Judgement.from_json(json.loads(json.dumps(second.as_json()))) == second
    shown = StringIO()
    print_judgement("second", second, Console(file=shown, width=400), looked=True)
    assert "look 2 at candles of these pairs and days (by others: first 1)" in shown.getvalue()


def _with_spec(folder: StudyFolder) -> tuple[StudyFolder, Any]:
    return folder, folder.spec


@pytest.mark.parametrize("changes", [{"pairs": ("ETH/USDT:USDT",)}, {"locked": LATER}])
def test_candles_of_other_pairs_or_days_cost_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    look_at(*begun(tmp_path, "first"))
    assert look_at(*begun(tmp_path, "second", **changes)).look == 1


def test_one_pair_and_one_day_in_common_are_enough() -> None:
    spec = make_spec()
    [pair] = spec.pairs
    assert overlaps(spec, make_spec(pairs=("ETH/USDT:USDT", pair), locked="20240409-20240520"))
    assert not overlaps(spec, make_spec(locked=LATER))
    assert not overlaps(make_spec(locked=LATER), spec)


def test_a_study_whose_spec_cannot_be_read_counts(tmp_path: Path) -> None:
    folder, trials = begun(tmp_path, "first")
    look_at(folder, trials)
    folder.spec_file.write_text("{")
    assert look_at(*begun(tmp_path, "second")).looks_of_others == {"first": 1}


def test_no_look_gets_the_number_of_another_where_a_study_was_removed(tmp_path: Path) -> None:
    folder, trials = begun(tmp_path, "first")
    look_at(folder, trials)
    second, its_trials = begun(tmp_path, "second")
    assert look_at(second, its_trials).look == 2
    shutil.rmtree(folder.path)
    assert look_at(second, its_trials, 1).look == 3


def test_two_machines_on_one_storage_count_each_others_looks(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="small", storage=f"sqlite:///{tmp_path / 'shared.db'}")
    folders = [begun(tmp_path / machine, "small") for machine in ("one", "two")]

    def look(machine: int, number: int = 0, **more: Any) -> Judgement:
        folder, trials = folders[machine]
        shared = SharedLooks(study)
        return judge(folder, trials, trials[number], runs()[0], shared=shared, **more)[0]

    first, second = look(0), look(1)
    assert (first.look, first.looks_of_others) == (1, {})
    assert (second.look, second.looks_of_others) == (2, {ELSEWHERE: 1})
    assert low(second) < low(first)
    # One that is shown again is none, and the first machine knows of the second one's.
    assert look(0) == first
    assert (look(0, 1).look, look(1, 1).look) == (3, 4)

    # Whatever it came to: a look that was cut off on one machine counts on the other.
    def stop(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look(0, 2, progress=stop)
    assert look(1, 2).look == 6
    # And what it saw of candles.
    look(0, 3, candles=lambda: "one")
    with pytest.raises(StudyError, match="are others than an earlier look"):
        look(1, 3, candles=lambda: "two")
