"""The docs: the reference is what the code says, every command can be given, README's figures are on record."""

import json
import re
import sys
import tomllib
from collections.abc import Iterator

import pytest
from docs_commands import (
    AS_PRINTED,
    BLOCK,
    COMMAND_WORDS,
    COMMANDS_IN_DOCS,
    DOCS,
    NOT_RUN,
    PAGES,
    ROOT,
    RUN_BY,
    Command,
    commands_of,
)
from freqtrade.commands import Arguments

from mtfscalper.cli import COMMANDS, build_parser

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def why_it_cannot_be_given(command: Command) -> str | None:
    """What is wrong with a command, by the parser of the program that it is for."""
    arguments = list(command.words[1:])
    kind = command.kind
    try:
        if kind.startswith("mtfscalper "):
            args, others = build_parser().parse_known_args(arguments)
            if others and not hasattr(args, "takes_freqtrades"):
                return f"unknown: {others}"
            if others:
                Arguments(["backtesting", *others]).get_parsed_arg()
        elif kind.startswith("freqtrade "):
            Arguments(arguments).get_parsed_arg()
    except SystemExit:
        return "its parser refuses it"
    if kind == "make" and arguments:
        targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        if arguments[0] not in targets:
            return f"there is no target {arguments[0]}"
    files = [word for word in arguments if re.match(r"(configs|benchmarks|strategies|tests)/|requirements", word)]
    if kind in ("python", "bash") and arguments and arguments[0].endswith((".py", "run")):
        files.append(arguments[0])
    missing = [file for file in files if not (ROOT / file).exists()]
    extras = [extra for word in arguments for extra in re.findall(r"(?:mtfscalper|^\.)\[([a-z,]+)\]", word)]
    known = PYPROJECT["project"]["optional-dependencies"]
    missing += [extra for joined in extras for extra in joined.split(",") if extra not in known]
    return f"there is no {missing}" if missing else None


def test_every_command_in_the_docs_can_be_given() -> None:
    wrong = {str(command): why for command in COMMANDS_IN_DOCS if (why := why_it_cannot_be_given(command)) is not None}
    assert wrong == {}
    assert len(COMMANDS_IN_DOCS) > 60


@pytest.mark.parametrize(
    "typed",
    [
        "mtfscalper report --htm=x --frobnicate",
        "mtfscalper demos",
        "freqtrade backtesting --no-such-option",
        "make nothing",
        "python benchmarks/gone.py",
        "pip install 'mtfscalper[nothing]'",
        "freqtrade trade --config configs/gone.json",
    ],
)
def test_a_command_that_cannot_be_given_is_found(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    [command] = commands_of(f"```sh\n{typed}\n```\n", "page")
    assert why_it_cannot_be_given(command) is not None


def named_test(place: str) -> str | None:
    """The text of the file of a test that is named ``file::function``; None where there is no such test."""
    file, _, function = place.partition("::")
    text = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).is_file() else ""
    return text if not function or re.search(rf"^def {function}\(", text, re.MULTILINE) else None


def test_every_command_is_run_by_a_test_or_has_a_reason_not_to_be() -> None:
    """Each line as it is printed, or its subcommand and options, not the kind of command alone."""
    printed = [command for command in COMMANDS_IN_DOCS if not command.words[1:2] or command.words[1] != "--version"]
    ways = [(AS_PRINTED, "line"), (RUN_BY, "form"), (NOT_RUN, "kind")]
    unknown = [
        str(command)
        for command in printed
        if not any(getattr(command, attribute) in known for known, attribute in ways)
    ]
    assert unknown == []
    for known, attribute in ways:
        assert set(known) - {getattr(command, attribute) for command in printed} == set(), "nobody prints it any more"
    kinds = {command.kind for command in printed if command.kind.startswith("mtfscalper ")}
    assert kinds == {f"mtfscalper {each.name}" for each in COMMANDS}


@pytest.mark.parametrize("form", RUN_BY)
def test_the_test_that_is_named_for_a_command_has_its_options(form: str) -> None:
    text = named_test(RUN_BY[form])
    assert text is not None, f"{RUN_BY[form]} does not exist"
    # Of files, and of what is named everywhere, helpers of the tests know.
    usual = {"--config", "--strategy", "--freqaimodel", "--timerange", "--userdir", "--datadir", "--study", "--trials"}
    assert (
        not text
        or [
            option
            for option in form.split()
            if option.startswith("--") and option not in usual
            if option not in text and option.removeprefix("--").replace("-", "_") not in text
        ]
        == []
    )


def test_until_there_is_a_release_what_is_installed_is_a_clone() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    is_released = re.search(r"^## v?\d", changes, re.MULTILINE) is not None
    by_name = [
        str(command)
        for command in COMMANDS_IN_DOCS
        if any(word.startswith("mtfscalper[") for word in command.words[1:])
    ]
    assert is_released or by_name == []


def test_no_command_hides_in_a_block_that_is_not_marked_as_a_shells() -> None:
    hidden = [
        f"{path.name}: {line}"
        for path in PAGES
        for language, block in BLOCK.findall(path.read_text(encoding="utf-8"))
        if not language
        for line in block.splitlines()
        if line.split(" ")[0] in COMMAND_WORDS
    ]
    assert hidden == []


def test_commands_that_need_an_exchange_are_marked() -> None:
    marked = (DOCS / "index.md").read_text(encoding="utf-8")
    assert "ask the exchange" in marked
    for page in ("tutorial.md", "README.md", "index.md"):
        path = ROOT / page if page == "README.md" else DOCS / page
        assert "exchange" in path.read_text(encoding="utf-8")


def test_the_reference_is_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    sys.modules.pop("write_reference", None)
    import write_reference

    pages = {page.name: page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")}
    stale = [name for name, text in pages.items() if write_reference.written(text) != text]
    assert stale == [], "remedy: make reference"
    blocks = {name for text in pages.values() for _, name, _ in write_reference.BLOCK.findall(text)}
    assert blocks == set(write_reference.BLOCKS)
    sys.modules.pop("write_reference", None)


def test_every_page_is_in_the_menu_and_every_link_leads_somewhere() -> None:
    menu = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert menu == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    for path in [*PAGES, ROOT / "SECURITY.md", ROOT / "RELEASING.md", ROOT / "CHANGELOG.md"]:
        text = BLOCK.sub("", path.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not target.startswith(("https://", "#")):
                assert (path.parent / target.partition("#")[0]).exists(), f"{path.name} links to {target}"


# ---------------------------------------------------------------------- README


def test_the_readme_is_short_and_begins_with_a_picture() -> None:
    assert len(README.split()) < 900
    assert "![" in README.split("\n\n")[1]


def test_the_readmes_strategy_is_three_lines_that_run() -> None:
    [code] = [block for language, block in BLOCK.findall(README) if language == "python"]
    made: dict = {}
    exec(code, made)
    assert issubclass(made["MyStrategy"], made["IStrategy"])
    assert len([line for line in code.splitlines() if line]) == 3


def numbers(text: str) -> set[str]:
    """Numbers of a text, without what stands in names, links and code."""
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", " ", text, flags=re.DOTALL)
    return set(re.findall(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?![\w])", text))


# What names a number in the README and measures nothing.
NOT_MEASURED = {
    "with Python 3.11 to 3.13 and": "what it runs on",
    "on 2 cores": "the machine",
    "47 days before them are needed": "train_period_days and 400 candles of an hour",
    "GPL-3.0-or-later": "the licence",
    "| | lookback 1 | lookback 30 |": "settings",
}
# What measures something, and which row of which table of the record has it: page, section, first cell.
MEASURED = {
    "2.3 GB on disk with a CPU build of torch": (
        "README.md",
        "Two commands",
        "the environment of make setup, with a CPU build of torch",
    ),
    "6.4 GB with the one for NVIDIA's GPUs": (
        "README.md",
        "Two commands",
        "pip install 'mtfscalper[report]' on Linux, Python 3.13, torch 2.14.1 for NVIDIA's GPUs",
    ),
    "76 s: two pairs, four trainings, one backtest; the report 5 s more": (
        "README.md",
        "Two commands",
        "mtfscalper demo",
    ),
    "11 minutes": ("README.md", "Two commands", "make test"),
    "After 30 days two of three edges": ("README.md", "Read your result", "30"),
}


def recorded() -> list[dict]:
    return json.loads((DOCS / "benchmarks.json").read_text(encoding="utf-8"))["tables"]


def unrecorded(readme: str) -> set[str]:
    """Numbers of a README that no row of the record has which they were taken from."""
    text = " ".join(readme.split())
    for words in NOT_MEASURED:
        assert words in text
        text = text.replace(words, " ")
    [*_, speeds] = [rows for heading, _, rows in tables_of(readme) if heading == "How fast"]
    wrong = {number for row in speeds if row not in rows_of_speeds() for cell in row[1:] for number in numbers(cell)}
    for row in speeds:
        text = text.replace(f"| {' | '.join(row)} |", " ")
    for words, (page, section, first) in MEASURED.items():
        [row] = [
            row
            for table in recorded()
            if (table["page"], table["section"]) == (page, section)
            for row in table["rows"]
            if row[0] == first
        ]
        if words in text and numbers(words) <= numbers(" ".join(row)):
            text = text.replace(words, " ")
    return wrong | numbers(text)


def rows_of_speeds() -> list[list[str]]:
    """What the README's table of speeds has to say, by the record of speed.md."""
    [kept] = [table for table in recorded() if table["page"] == "speed.md"]
    by_name = {name: rest for name, *rest in kept["rows"]}
    default, best = by_name["freqtrade, default"], by_name["freqtrade, all processors: its best"]
    ours = [
        [name, *(f"{row[at]} ({row[at + 2]}; {row[at + 1]})" for at in (0, 3))]
        for name, row in by_name.items()
        if name.startswith("`config_rl_fast.json`")
    ]
    return [["freqtrade, all processors / default", *(f"{best[at]} / {default[at]}" for at in (0, 3))], *ours]


def test_every_figure_of_the_readme_is_that_of_its_row_on_record() -> None:
    assert unrecorded(README) == set()
    assert [rows for heading, _, rows in tables_of(README) if heading == "How fast"] == [rows_of_speeds()]


@pytest.mark.parametrize(
    ("written", "made_up"),
    [
        ("2,542 (3.6; 4.2)", "2,542 (4.2; 3.6)"),
        ("1,207 (2.6; 3.3)", "1,207 (2.6; 3.7)"),
        ("700 / 606", "460 / 606"),
        ("76 s: two pairs", "64 s: two pairs"),
        ("11 minutes", "30 minutes"),
        ("no account and no data of yours.", "no account and 5.2 times less data."),
    ],
)
def test_a_figure_of_another_row_is_found(written: str, made_up: str) -> None:
    assert written in README
    assert unrecorded(README.replace(written, made_up)) != set()


def tables_of(text: str) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """The tables of a page: the heading that each stands under, its columns and rows."""
    heading, lines = "", [*text.splitlines(), ""]
    for number, line in enumerate(lines):
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if re.fullmatch(r"[|:\- ]+", line) and "|" in line:
            rows = []
            for row in lines[number + 1 :]:
                if not row.startswith("|"):
                    break
                rows.append(cells(row))
            yield heading, cells(lines[number - 1]), rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_tables_of_the_benchmarks_are_on_record() -> None:
    for page in ("benchmarks.md", "benchmark-training.md", "benchmark-gpu.md", "learning.md", "validate.md"):
        written = list(tables_of((DOCS / page).read_text(encoding="utf-8")))
        kept = [(table["section"], table["columns"], table["rows"]) for table in recorded() if table["page"] == page]
        assert written == kept, page
        assert written, page


def test_the_table_of_speeds_repeats_the_record() -> None:
    [kept] = [table for table in recorded() if table["page"] == "speed.md"]
    written = list(tables_of((DOCS / "speed.md").read_text(encoding="utf-8")))
    assert (kept["columns"], kept["rows"]) == written[0][1:]
    # Its figures are those of the longer table, where each rate stands with its ratios.
    [whole, *_] = [table for table in recorded() if table["page"] == "benchmark-training.md"]
    in_pairs = [row[1:3] for row in whole["rows"]]
    assert [
        row for row in kept["rows"] if [f"{row[at]} ({row[at + 1]}; {row[at + 2]})" for at in (1, 4)] not in in_pairs
    ] == []
    rates = {row[0]: (float(row[1].replace(",", "")), float(row[4].replace(",", ""))) for row in kept["rows"]}
    default, best = rates["freqtrade, default"], rates["freqtrade, all processors: its best"]
    for name, *shown in kept["rows"]:
        ratios = [[rates[name][at] / default[at], rates[name][at] / best[at]] for at in (0, 1)]
        assert [float(value) for value in (*shown[1:3], *shown[4:6])] == [
            pytest.approx(ratio, abs=0.051) for pair in ratios for ratio in pair
        ]


def test_every_record_says_how_it_was_measured() -> None:
    for table in recorded():
        assert table["machine"]
        assert table["command"] or table["note"]
        assert table["rounds"]
        script = re.search(r"(?:benchmarks|tests)/\S+\.(?:py|sh)", table["command"])
        if script:
            assert (ROOT / script[0]).exists(), table["command"]
