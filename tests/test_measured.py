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

COUNTED = (
    r"([a-z-]+ )?(trades|studies|seeds|tests|lines|questions|exits|runs|rounds|passes|objects|files|requests|kills|"
    r"faults|policies|trials|trainings|decisions|rows|candles)"
)
UNIT = r"(µs|ms|s|min|h|seconds?|minutes?|hours?|[kKMG]i?B|%|points|times|x|×|[GT]FLOP/s|(steps|samples)( a |/)\w+)"
FIGURE = re.compile(rf"(?<![\w.`/-])\d[\d,]*(\.\d+)?\s?({UNIT}|{COUNTED})(?!\w)")
# A cell of a table that holds figures alone: 2,542 (3.6; 4.2).
CELL = re.compile(r"[*~−+±-]*\d([\d\s,.;:/()%±×x*−+-]|to )*")


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
    "benchmark-training.md": ["in pieces of 2 MiB", "on 256 rows of five numbers"],
    "benchmarks.md": ["random actions on 8,640 synthetic candles", "17,968 candles of 51 columns"],
    "bot-candles.md": [
        "| No answer, an empty one",
        "Two limits are judged by numbers: ten times for what is refused, 1.5 times",
        "passes every 30 s, the fault",
    ],
    "bot-policies.md": ["the newest 90 files"],
    "clusters.md": ["50 pairs × 52 periods, 2,600 trainings", "limited to 500 MB", "gives a node 30 s to start"],
    "decisions.md": [
        "the newest 20 and 90 files",
        "writes every 16,384 rows",
    ],
    "deployment.md": [
        "lower end of a 90 % interval",
        "a swing of 1.6 %",
        "for a 95 % interval, the third for 97.5 %",
        "forty-five to judge, 225 trades",
    ],
    "dry-run.md": ["every 15 seconds of its time", "pays 0.05 %", "pays 0.02 %"],
    "environments.md": ["it is killed after 5 seconds", "within 10 % of the fastest"],
    "faq.md": ["fewer than 20 trades"],
    "guard.md": ["is one-sided at 95 %", "(one-sided at 95 %", "at least 30 such trades"],
    "learning.md": [
        "evaluated on 6,000 candles",
        "eight of 512 steps a rollout",
        "95 % intervals of the mean",
        "one-sided 95 % bound",
        "above −5 points",
        "ahead of one by 0.56 of that in the mean, more than 5 points",
        "In money 5 points",
        "It is taken as 10 points with mean reversion, as found below (27 seeds), 6 with gated trends (11 seeds) "
        "and 0.6 with a leaked future (5 seeds",
        "All of it takes about an hour",
    ],
    "own_reward.md": ["3.75 is its 150 ×", "by 32 random policies"],
    "recurrent.md": ["begins empty 128 candles", "`conv_width` + 128 candles"],
    "reference/cli.md": ["| every command, but `status` | 0 |"],
    "reference/reward.md": ["| `rr` | 1.0 |", "128 random policies are ranked"],
    "reference/settings.md": ["| `n_steps` | 4096 |", "| `train_cycles` | 30 |", "| `conv_width` | 1 |"],
    "report.md": [
        "Under 30 trades or 30 days",
        "Both are made at 95 %",
        "at 90 % too many studies of nothing",
        "500 studies each of paired daily differences",
        "One wrong in twenty on either side would be 25; the test allows 7 %",
        "in so many of 500 studies",
        "next to no fee (0.001 %)",
        "the 576 candles with most entries",
    ],
    "service.md": ["and to 4 GB, if nothing else is said", "ten old ones of 10 MB each"],
    "studies.md": [
        "four workers, 50 trials, 30 studies",
        "a study of 50 trials finds",
        "100 MB more for the trials' own",
        "its interval of 90 %",
        "every 20 seconds",
        "ended 40 seconds ago",
    ],
    "tutorial.md": ["and 400 candles of the highest timeframe"],
    "validate.md": ["(sign test, 90 %)", "that of copying 256 MiB"],
    "watching.md": ["with its 90 % interval"],
}


def unaccounted(page: str, text: str) -> list[str]:
    """What names a figure and is neither listed, on record, nor known to measure nothing.

    In a sentence every figure stands in such words, of a table any of them stand for the whole.
    """
    known = [plain(one.words) for one in listed() if one.page == page] + on_record(page) + NOT_MEASURED.get(page, [])
    found = []
    for statement in statements(text):
        places = [(at, at + len(words)) for words in known if (at := statement.find(words)) >= 0]
        bare = re.sub(r"`[^`]*`", lambda code: "`" * len(code[0]), statement)
        figures = [match.start() for match in FIGURE.finditer(bare)]
        if statement.startswith("|"):
            data = [cell for row in bare.split("| |") for cell in row.strip("| ").split(" | ")[1:]]
            if not places and (figures or any(CELL.fullmatch(cell.strip()) for cell in data)):
                found.append(statement)
        elif any(not any(start <= at < stop for start, stop in places) for at in figures):
            found.append(statement)
    return found


def name_of(path: Path) -> str:
    return path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) else path.name


@pytest.mark.parametrize("path", [path for path in PAGES if path != FIGURES], ids=name_of)
def test_every_figure_of_a_page_is_listed_or_measures_nothing(path: Path) -> None:
    assert unaccounted(name_of(path), path.read_text(encoding="utf-8")) == []


def test_a_figure_that_is_not_listed_is_found() -> None:
    text = (DOCS / "training.md").read_text(encoding="utf-8") + "\n\nA training takes 12.5 s here. It needs care.\n"
    assert unaccounted("training.md", text) == ["A training takes 12.5 s here."]
    made_up = ["It made 812 trades in 41 studies.", "| a | b |\n|---|---|\n| all | 3 MB |\n"]
    made_up += ["| a | b |\n|---|---|\n| all | 2,542 (3.6; 4.2) |\n", "| a | b |\n|---|---|\n| all | **57** to 75 |\n"]
    for text in made_up:
        assert unaccounted("training.md", text) == [plain(text)]
    assert unaccounted("training.md", "| exit status | |\n|---|---|\n| 0 | all is well |\n") == []


def test_what_is_listed_of_a_sentence_does_not_stand_for_its_other_figures() -> None:
    [one] = [one for one in listed() if one.page == "clusters.md" and one.words.startswith("Starting Ray")]
    assert unaccounted("clusters.md", f"{one.words}.") == []
    assert unaccounted("clusters.md", f"{one.words}, with 9 % more of 77 trades.") != []


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
