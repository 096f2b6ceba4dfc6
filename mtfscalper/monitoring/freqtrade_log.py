"""What freqtrade's log says: how far it has come, and what went wrong."""

import re

# How the name of a training's stage begins.
TRAINING = "training "
# What freqtrade logs when it comes to a stage, and the name of the stage here.
_STAGES = (
    (re.compile(r"Loading data|Using data directory"), "loading candles"),
    (re.compile(r"Starting training (\S+)"), TRAINING + "{}"),
    (re.compile(r"Done training (\S+)"), "deciding on {}"),
    (re.compile(r"Backtesting with data from"), "backtesting trades"),
)
_LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_ERROR_LINE = re.compile(r" - (?:ERROR|CRITICAL) - ")
_LOG_PREFIX = re.compile(r"^.* - (?:DEBUG|INFO|WARNING) - ")


def stage_of(log: str, stage: str) -> str:
    """The stage that freqtrade has come to.

    :param log: what was logged since
    :param stage: where it was before
    """
    for line in log.splitlines():
        for pattern, name in _STAGES:
            found = pattern.search(line)
            if found:
                stage = name.format(*found.groups())
    return stage


def last_error(log: str) -> str:
    """The last error in a log of freqtrade, in one line; else its last line."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    for number in range(len(lines) - 1, -1, -1):
        if not _ERROR_LINE.search(lines[number]):
            continue
        following = []
        for line in lines[number + 1 :]:
            if _LOG_LINE.match(line):
                break
            following.append(line.strip())
        if any(line.startswith("Traceback") for line in following):
            return following[-1]
        return " ".join([_ERROR_LINE.split(lines[number], maxsplit=1)[1], *following])
    return _LOG_PREFIX.sub("", lines[-1]) if lines else "it wrote nothing"
