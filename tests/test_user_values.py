"""What a user's code takes up as it is imported is part of what a policy is made from, however it comes there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_user_code import resolved

from mtfscalper.user_code import class_sources_sha256, forget_user_code, load_user_code

HEAD = "import json\nimport threading\nfrom pathlib import Path\nimport numpy as np\nimport pandas as pd\n"
HEAD += "HERE = Path(__file__).parent\n"
AS_JSON = 'json.loads((HERE / "limits.json").read_text())'
USED = "\n\nclass Child:\n    def limit(self):\n        return LIMITS\n"
# Each takes up what a file beside it says.
TAKEN_UP = {
    "json": f"LIMITS = {AS_JSON}{USED}",
    "open": f'with open(f"{{HERE}}/limits.json") as file:\n    LIMITS = [json.load(file)]{USED}',
    "a part of it": f"CAP = {AS_JSON}['cap']\n\n\nclass Child:\n    def limit(self):\n        return CAP\n",
    "csv": f'LIMITS = pd.read_csv(HERE / "limits.csv"){USED}',
    "a column of words": f'LIMITS = pd.read_csv(HERE / "limits.csv", dtype=str)["cap"]{USED}',
    "parquet": f'LIMITS = pd.read_parquet(HERE / "limits.parquet"){USED}',
    "npy": f'LIMITS = np.load(HERE / "limits.npy"){USED}',
    "an object of its own": (
        f"class Limits:\n    def __init__(self, cap):\n        self.caps = {{cap}}\n\n\n"
        f"LIMITS = Limits({AS_JSON}['cap']){USED}"
    ),
    "beside a lock": f"LIMITS = {{'lock': threading.Lock(), 'caps': {AS_JSON}}}{USED}",
    "a class's attribute": f"class Child:\n    LIMITS = {AS_JSON}\n",
    "a nested class's": f"class Child:\n    class MyRLEnv:\n        LIMITS = {AS_JSON}\n",
    "a default": f"class Child:\n    def __init__(self, limits={AS_JSON}):\n        self.limits = limits\n",
    "a closure": (
        f"def made(limits):\n    return lambda: limits\n\n\nLIMITS = made({AS_JSON})\n\n\n"
        "class Child:\n    def limit(self):\n        return LIMITS()\n"
    ),
    "the environment": f'import os\nLIMITS = os.environ["USERS_CAP"]{USED}',
}


def write_limits(folder: Path, cap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "limits.json").write_text(json.dumps({"floor": 1, "cap": cap}))
    frame = pd.DataFrame({"cap": [cap, 7]})
    frame.to_csv(folder / "limits.csv", index=False)
    frame.to_parquet(folder / "limits.parquet")
    np.save(folder / "limits.npy", np.array([1, cap]))
    monkeypatch.setenv("USERS_CAP", str(cap))


def hash_with(folder: Path, source: str, cap: int, monkeypatch: pytest.MonkeyPatch, helper: str = "") -> str:
    write_limits(folder, cap, monkeypatch)
    return class_sources_sha256(resolved(folder, {"users_limits": helper, "users_model": HEAD + source}))


@pytest.mark.parametrize("how", TAKEN_UP)
def test_what_a_class_takes_up_as_it_is_imported_counts(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = TAKEN_UP[how]
    before = hash_with(tmp_path / "before", source, 2, monkeypatch)
    # Where it lies does not.
    assert hash_with(tmp_path / "elsewhere" / "same", source, 2, monkeypatch) == before
    assert hash_with(tmp_path / "after", source, 3, monkeypatch) != before


@pytest.mark.parametrize("imported", ["from users_limits import LIMITS", "import users_limits"])
def test_what_a_file_beside_it_takes_up_counts(tmp_path: Path, imported: str, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = HEAD + f"LIMITS = {AS_JSON}\n"
    read = "LIMITS" if imported.startswith("from") else "users_limits.LIMITS"
    source = f"{imported}\n\n\nclass Child:\n    def limit(self):\n        return {read}\n"
    hashes = [hash_with(tmp_path / str(cap), source, cap, monkeypatch, helper) for cap in (2, 2, 3)]
    assert len(set(hashes)) == 2
    assert hashes[0] == hashes[1]


def test_what_no_function_reads_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import logging, random\nBEGUN = random.random()\nlogger = logging.getLogger('mine')\n\n\n"
    source += "class Child:\n    def limit(self):\n        logger.info('asked')\n"
    assert len({hash_with(tmp_path / name, source, 2, monkeypatch) for name in "abc"}) == 1


def test_a_set_has_one_hash_in_all_processes(tmp_path: Path) -> None:
    (tmp_path / "users_set.py").write_text(
        "WORDS = {'one', 'two', 'three', 'four'}\nDEEP = {'in': [frozenset(WORDS)]}\n\n\n"
        "def term(xp, settings, transition):\n    return len(WORDS) + len(DEEP)\n"
    )
    code = (
        "import sys; from pathlib import Path; from mtfscalper.user_code import load_user_code; "
        "print(load_user_code('users_set:term', Path(sys.argv[1]), 'terms').values_sha256)"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(hashes) == 1


def test_what_a_term_takes_up_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_terms.py").write_text(
        HEAD + f"LIMITS = {AS_JSON}\n\n\ndef term(xp, settings, transition):\n    return LIMITS['cap']\n"
    )

    def hash_of(cap: int) -> str:
        write_limits(tmp_path, cap, monkeypatch)
        forget_user_code()
        return load_user_code("users_terms:term", tmp_path, "terms").values_sha256

    assert hash_of(2) == hash_of(2) != hash_of(3)
    forget_user_code()
