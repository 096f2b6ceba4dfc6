"""docs/figures.md says of every measured figure of the README and the docs where it was measured."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FIGURES = DOCS / "figures.md"

UNIT = r"(µs|ms|s|min|h|seconds?|minutes?|hours?|[kKMG]i?B|%|points|times|x|×|[GT]FLOP/s|(steps|samples)( a |/)\w+)"
FIGURE = re.compile(rf"(?<![\w.`/-])\d[\d,]*(\.\d+)?\s?{UNIT}(?!\w)")


class Measured(NamedTuple):
    """A row of docs/figures.md.

    :ivar page: of the docs, or README.md
    :ivar words: of the sentence or table
    """

    page: str
    words: str
    how: str
    machine: str
    commit: str


def plain(text: str) -> str:
    """In one line, and without where links lead."""
    return " ".join(re.sub(r"\]\([^)]*\)", "]", text).split())


def listed() -> list[Measured]:
    lines = FIGURES.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return [Measured(*row) for row in rows if row[0] != "page"]


def statements(text: str) -> Iterator[str]:
    """The sentences of a page, and its tables, each as one."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for block in re.split(r"\n\s*\n|\n(?=\s*- )", text):
        if block.startswith("|"):
            yield plain(block)
        else:
            yield from re.split(r"(?<=[.:;?!])\s+(?=[A-Z`*\[(-])", plain(block))


def on_record(page: str) -> list[str]:
    """The tables of a page that docs/benchmarks.json has, by their first row."""
    tables = json.loads((DOCS / "benchmarks.json").read_text(encoding="utf-8"))["tables"]
    return [plain(" | ".join(table["rows"][0])) for table in tables if table["page"] == page]


# Settings, limits, markets that are made up, and how something is reckoned: they name a figure and measure nothing.
NOT_MEASURED = {
    "benchmark-training.md": ["in pieces of 2 MiB"],
    "bot-candles.md": ["| No answer, an empty one", "Two limits are judged by numbers", "passes every 30 s, the fault"],
    "clusters.md": ["limited to 500 MB", "gives a node 30 s to start"],
    "deployment.md": ["lower end of a 90 % interval", "a swing of 1.6 %", "for a 95 % interval, the third for"],
    "dry-run.md": ["every 15 seconds of its time", "pays 0.05 %"],
    "environments.md": ["it is killed after 5 seconds", "within 10 % of the fastest"],
    "guard.md": ["is one-sided at 95 %", "(one-sided at 95 %"],
    "learning.md": [
        "95 % intervals of the mean",
        "one-sided 95 % bound",
        "ahead of one by 0.56",
        "In money 5 points",
        "It is taken as 10 points",
        "All of it takes about an hour",
    ],
    "own_reward.md": ["3.75 is its 150 ×"],
    "reference/settings.md": ["| `train_cycles` | 30 |"],
    "report.md": ["Both are made at 95 %", "One wrong in twenty", "next to no fee (0.001 %)"],
    "service.md": ["and to 4 GB, if nothing else is said", "ten old ones of 10 MB each"],
    "studies.md": [
        "100 MB more for the trials' own",
        "its interval of 90 %",
        "every 20 seconds",
        "ended 40 seconds ago",
    ],
    "validate.md": ["(sign test, 90 %)", "that of copying 256 MiB"],
    "watching.md": ["with its 90 % interval"],
}


def unaccounted(page: str, text: str) -> list[str]:
    """What names a figure and is neither listed, on record, nor known to measure nothing."""
    known = [plain(one.words) for one in listed() if one.page == page] + on_record(page) + NOT_MEASURED.get(page, [])
    return [
        statement
        for statement in statements(text)
        if FIGURE.search(re.sub(r"`[^`]*`", "", statement)) and not any(words in statement for words in known)
    ]


def name_of(path: Path) -> str:
    return path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) else path.name


@pytest.mark.parametrize("path", [path for path in PAGES if path != FIGURES], ids=name_of)
def test_every_figure_of_a_page_is_listed_or_measures_nothing(path: Path) -> None:
    assert unaccounted(name_of(path), path.read_text(encoding="utf-8")) == []


def test_a_figure_that_is_not_listed_is_found() -> None:
    text = (DOCS / "training.md").read_text(encoding="utf-8") + "\n\nA training takes 12.5 s here. It needs care.\n"
    assert unaccounted("training.md", text) == ["A training takes 12.5 s here."]
    assert unaccounted("training.md", "| a | b |\n|---|---|\n| all | 3 MB |\n") != []


def test_what_is_listed_stands_in_its_page() -> None:
    texts = {name_of(path): plain(path.read_text(encoding="utf-8")) for path in PAGES}
    assert [one for one in listed() if plain(one.words) not in texts[one.page]] == []
    gone = [(page, words) for page, known in NOT_MEASURED.items() for words in known if words not in texts[page]]
    assert gone == []
    assert len(listed()) > 80


def test_what_is_listed_says_how_it_was_measured_by_files_that_exist() -> None:
    for one in listed():
        assert one.how
        assert one.machine in ("2", "2 shared", "H200"), one
        assert re.fullmatch(r"[0-9a-f]{7}", one.commit), one
        for file in re.findall(r"(?:benchmarks|tests)/[\w/]+\.(?:py|sh)", one.how):
            assert (ROOT / file).exists(), one
