"""Writes what the docs tell of the code: `make reference`. A test sees to it that nobody forgets to.

A page holds a block between two comments, ``<!-- generated: NAME -->`` and ``<!-- end -->``; all around it is by hand.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mtfscalper import artefacts, seals, settings
from mtfscalper.cli import COMMANDS, build_parser
from mtfscalper.command_help import EXAMPLES, EXIT_STATUS, OWN_STATUS
from mtfscalper.executors import worker_count
from mtfscalper.freqai import archive, decision_record, environments_note, health, kept_trainings
from mtfscalper.offline import OFFLINE_USER_DATA, dry_run
from mtfscalper.offline.starter import starter_files
from mtfscalper.training import vec_env_choice

DOCS = Path(__file__).parent
BLOCK = re.compile(r"(<!-- generated: ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_block(title: str) -> str:
    """A table of settings."""
    return settings.reference_tables()[title]


def record_block() -> str:
    """The columns of the record of decisions."""
    rows = [
        f"| `{field.name}` | {field.type} | {decision_record.COLUMN_MEANINGS[field.name]} |"
        for field in decision_record.SCHEMA
    ]
    return "\n".join(["| column | type | what it holds |", "|---|---|---|", *rows])


def cli_block() -> str:
    """Every command with its options, examples and exit status."""
    return "\n\n".join(_command(name, parser) for name, parser in _subparsers().items())


def statuses_block() -> str:
    """What exit statuses mean, in general and for each command."""
    rows = [f"| every command, but `status` | {status} | {meaning} |" for status, meaning in EXIT_STATUS.items()]
    rows += [
        f"| `{command}` | {status} | {meaning} |"
        for command, meanings in OWN_STATUS.items()
        for status, meaning in meanings.items()
    ]
    return "\n".join(["| command | status | meaning |", "|---|---|---|", *rows])


def files_block() -> str:
    """What lies where, by the names in the code."""
    kept = f"models/{archive._FOLDER}/<identifier>"
    records = f"{decision_record._FOLDER}/<identifier>"
    rows = {
        "models/<identifier>/sub-train-…/…_model.zip": "A policy, which plain `PPO.load` opens",
        f"models/<identifier>/sub-train-…/{artefacts.MANIFEST_NAME}": "What a period was made from, with its seal",
        f"models/<identifier>/sub-train-…/{artefacts.REPORT_NAME}": "A training: times, evaluations, reward",
        "models/<identifier>/tensorboard": "Training curves",
        f"models/<identifier>/{health.HEALTH_NAME}": "How a bot is, for `mtfscalper status`",
        kept: "Second names of whatever a run sealed: hard links, no extra space",
        f"{kept}/trainings/…{kept_trainings._SUFFIX}": "Trainings that have finished, of a run that has not",
        f"{kept}/{environments_note._NAME}": 'The number that `n_envs` "auto" chose',
        f"{records}/….feather": "The record of decisions, of the newest "
        f"{decision_record.KEPT_FILES['backtest']} backtests and {decision_record.KEPT_FILES['live']} days of a bot",
        f"{records}/….jsonl": "A bot's journal",
        "backtest_results/….zip, ….html": "freqtrade's result, and the page of `mtfscalper report` beside it",
        seals.KEY_NAME: "The key that seals. Into your backups, and nowhere else",
    }
    homes = Path(dry_run.HOMES).relative_to(OFFLINE_USER_DATA).as_posix()
    offline = OFFLINE_USER_DATA.relative_to("user_data").as_posix()
    rows[offline] = "All of the above for the synthetic market"
    rows[f"{offline}/{homes}/<date>"] = "The same of each `mtfscalper dry-run`, with the bot's log and database"
    lines = [f"| `user_data/{path}` | {meaning} |" for path, meaning in rows.items()]
    for name in (vec_env_choice.CACHE_NAME, worker_count._CACHE_NAME):
        lines.append(f'| `~/.cache/mtfscalper/{name}` | What "auto" has measured on this machine |')
    return "\n".join(["| path | what it is |", "|---|---|", *lines])


def starter_block() -> str:
    """What ``mtfscalper init`` copies."""
    return "\n".join(f"- `{path.as_posix()}`" for path in starter_files())


BLOCKS: dict[str, Callable[[], str]] = {
    **{f"settings {title}": lambda title=title: settings_block(title) for title in settings.reference_tables()},
    "record": record_block,
    "cli": cli_block,
    "exit status": statuses_block,
    "files": files_block,
    "starter": starter_block,
}


def _subparsers() -> dict[str, argparse.ArgumentParser]:
    [action] = [each for each in build_parser()._actions if isinstance(each, argparse._SubParsersAction)]
    return dict(action.choices)


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    [summary] = [command.summary for command in COMMANDS if command.name == name]
    parts = [f"## mtfscalper {name}", f"{summary[0].upper()}{summary[1:]}.", *_told(parser)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action._choices_actions:
                about = str(each.help)
                parts += [f"### mtfscalper {name} {each.dest}", f"{about[0].upper()}{about[1:]}."]
                parts += _told(action.choices[each.dest])
    examples = "\n".join(f"{typed}    # {meaning}" for typed, meaning in EXAMPLES[name])
    return "\n\n".join([*parts, f"```sh\n{examples}\n```"])


def _told(parser: argparse.ArgumentParser) -> list[str]:
    """What a parser takes, and what stands at the end of its help by hand."""
    rows = list(_options(parser))
    parts = ["\n".join(["| option | meaning |", "|---|---|", *rows])] if rows else []
    if parser.get_default("takes_freqtrades"):
        parts.append("All other options are those of `freqtrade backtesting`.")
    return parts


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        value = action.metavar or (
            "{" + ", ".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
        )
        if not action.option_strings:
            typed = f"`{value}`" if action.nargs != "?" else f"`[{value}]`"
        else:
            names = ", ".join(action.option_strings)
            typed = f"`{names}`" if action.nargs == 0 else f"`{names} {value}`"
        meaning = (action.help or "") % {**vars(action), "prog": parser.prog}
        yield f"| {typed.replace('|', chr(92) + '|')} | {meaning.replace('|', chr(92) + '|')} |"


def written(text: str) -> str:
    """A page with its blocks made anew.

    :raises KeyError: for a block that nobody knows
    """
    return BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n\n{found[3]}", text)


def main() -> int:
    """Write every page, and name those that were not as the code says."""
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = written(text)
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(f"wrote {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
