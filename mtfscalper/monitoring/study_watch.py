"""Watching a study: a screen that is drawn anew on a terminal, else lines; nothing of the study is changed."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from mtfscalper.monitoring.study_screen import line, screen
from mtfscalper.monitoring.study_state import StudyState, study_state
from mtfscalper.progress.load import machine_load
from mtfscalper.progress.terminal import LINE_SECONDS, has_display
from mtfscalper.search.last_judgement import Judged, last_judged
from mtfscalper.search.looking import folder_of, open_to_look, study_of
from mtfscalper.search.study_folder import StudyFolder
from mtfscalper.search.trial_attributes import ASKED

if TYPE_CHECKING:
    import optuna

# Reading is a few milliseconds, and a trial takes minutes.
LOOK_SECONDS = 2.0


class StudyWatch:
    """Looks at a study again and again."""

    def __init__(self, study: optuna.Study, folder: StudyFolder, clock: Callable[[], float] = time.time) -> None:
        """
        :param clock: seconds since 1970
        """
        self._study, self._folder, self._clock = study, folder, clock
        # The share of the processors is that since the last time it was asked for.
        machine_load(gpu=False)

    def look(self) -> StudyState:
        """The study now."""
        asked = self._study.user_attrs.get(ASKED)
        trials = self._study.get_trials(deepcopy=False)
        return study_state(self._study.study_name, trials, self._clock(), None if asked is None else int(asked))

    def judged(self) -> Judged | None:
        """The last judgement of the study."""
        return last_judged(self._folder)


def watch(args: argparse.Namespace, console: Console) -> int:
    """Show a study until it is over or the user ends it.

    :raises StudyError: if there is no such study
    :return: exit status
    """
    folder = folder_of(args.userdir, args.study)
    study_watch = StudyWatch(study_of(open_to_look(folder, args.storage), folder.path.name), folder)
    if args.once:
        # A moment, of which the load is.
        time.sleep(0.1)
        console.print(screen(study_watch.look(), machine_load(gpu=True), study_watch.judged()))
    elif has_display(console):
        _show(study_watch, console)
    else:
        _print_lines(study_watch, console)
    return 0


def _show(study_watch: StudyWatch, console: Console) -> None:
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            state = study_watch.look()
            live.update(screen(state, machine_load(gpu=True), study_watch.judged()), refresh=True)
            if state.is_over:
                return
            time.sleep(LOOK_SECONDS)


def _print_lines(study_watch: StudyWatch, console: Console) -> None:
    """A line when a trial has ended, else once a minute."""
    said_at, said = float("-inf"), None
    while True:
        state = study_watch.look()
        if state.finished != said or time.monotonic() - said_at >= LINE_SECONDS:
            said_at, said = time.monotonic(), state.finished
            console.print(line(state, machine_load(gpu=True), study_watch.judged()), soft_wrap=True)
        if state.is_over:
            return
        time.sleep(LOOK_SECONDS)
