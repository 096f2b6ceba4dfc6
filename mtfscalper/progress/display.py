"""How people see a run: a display on a terminal, else a line a minute."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from mtfscalper.progress import words
from mtfscalper.progress.load import machine_load
from mtfscalper.progress.run import RunProgress
from mtfscalper.progress.terminal import LINE_SECONDS, has_display
from mtfscalper.training.request import TrainingRequest
from mtfscalper.training.watching import TrainingState

logger = logging.getLogger(__name__)

# Drawing takes a few milliseconds, which a training waits for.
_DRAW_SECONDS = 1.0
# Trainings at once that have a row of their own.
_ROWS = 8
_BAR_WIDTH = 10


class RunWatch:
    """Shows a run while it trains: called with every :class:`mtfscalper.training.watching.TrainingState`.

    On a terminal, while :meth:`shown` lasts, as a display below the log. The log gets a line as a training begins and
    one every minute; beside a display these have ``is_displayed`` set, so that they need not be printed too.

    :ivar run: what is shown
    """

    def __init__(
        self,
        run: RunProgress,
        console: Console | None,
        *,
        gpu: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        :param console: of the terminal that the log is printed on; None for lines alone
        :param gpu: whether trainings use a GPU
        :param clock: seconds
        """
        self.run = run
        self._console = console if console is not None and has_display(console) else None
        self._gpu, self._clock = gpu, clock
        self._is_shown = False
        self._said_at = clock()
        # The display is drawn by a thread of its own.
        self._lock = threading.Lock()

    def __call__(self, state: TrainingState) -> None:
        """Take note of how far a training is."""
        with self._lock:
            self.run.note(state)
        now = self._clock()
        if not state.timesteps:
            # That a training begins is told by whoever begins it.
            self._said_at = now
        elif now - self._said_at >= LINE_SECONDS:
            self._said_at = now
            running = self.run.running
            several = len(running) > 1
            self._say(words.lines_of_several(self.run, running) if several else words.line(self.run, state))

    def begin(self, job: TrainingRequest) -> None:
        """Log that a training begins: what of, on what, and how much of the run is left."""
        with self._lock:
            self.run.announce(job.name)
        self._say(words.beginning(self.run, job))

    def _say(self, line: str) -> None:
        logger.info("%s", line, extra={"is_displayed": self._is_shown})

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the display, where there is a terminal, from the first training until a ``with`` block ends."""
        if self._console is None:
            yield
            return
        kept = _Kept(self.drawn, self._clock)
        live = Live(
            get_renderable=lambda: kept,
            console=self._console,
            refresh_per_second=1 / _DRAW_SECONDS,
            transient=True,
        )
        with live, _handlers_follow():
            self._is_shown = True
            try:
                yield
            finally:
                self._is_shown = False

    def drawn(self) -> RenderableType:
        """The display; nothing before the first training."""
        with self._lock:
            run, state = self.run, self.run.current
            if state is None:
                return Text("")
            bar = Table.grid(expand=True)
            bar.add_row(ProgressBar(total=1.0, completed=run.share), f" {run.share:4.0%}")
            running = run.running
            if len(running) > 1:
                title = f"Training {len(running)} at once, of {run.n_policies} in all"
                lines = [f"{words.left(run)} · {words.pace(run)}", machine_load(self._gpu)]
            else:
                [state] = running or [state]
                title = f"Training {words.which(run, state)}"
                samples = f"{state.timesteps:,} of {state.timesteps_planned:,} samples · {words.pace(run)}"
                lines = [words.left(run), samples, words.learned(state), machine_load(self._gpu)]
            rows = [_row(run, one) for one in running[:_ROWS]] if len(running) > 1 else []
            if len(running) > _ROWS:
                lines.insert(0, f"and {len(running) - _ROWS} more")
        return Panel(Group(bar, *rows, *map(Text, lines)), title=Text(title), title_align="left")


def _row(run: RunProgress, state: TrainingState) -> RenderableType:
    """One of several trainings that are under way: how far it is and what it has learned, cut at the end of a line."""
    row = Table.grid(expand=True, padding=(0, 1))
    row.add_column(width=_BAR_WIDTH, no_wrap=True)
    row.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    row.add_row(ProgressBar(total=1.0, completed=words.share_of(state)), Text(words.row(run, state)))
    return row


class _Kept:
    """A drawing that is made anew once a second, however often it is shown.

    freqtrade keeps a display of its own in a backtest, which shows this one below itself ten times a second.
    """

    def __init__(self, draw: Callable[[], RenderableType], clock: Callable[[], float]) -> None:
        self._draw, self._clock = draw, clock
        self._lines: list[list[Segment]] = []
        self._made_at, self._width = float("-inf"), 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = self._clock()
        if now - self._made_at >= _DRAW_SECONDS or options.max_width != self._width:
            self._made_at, self._width = now, options.max_width
            self._lines = console.render_lines(self._draw(), options.update(height=None), pad=False)
        for line in self._lines:
            yield from line
            yield Segment.line()


@contextmanager
def _handlers_follow() -> Iterator[None]:
    """Let log handlers that print to the terminal by themselves print above the display.

    A display redirects ``sys.stderr``; a handler that was made before keeps the old one.
    """
    moved = []
    for handler in logging.root.handlers:
        if type(handler) is logging.StreamHandler:
            for real, now in ((sys.__stderr__, sys.stderr), (sys.__stdout__, sys.stdout)):
                if handler.stream is real and now is not real:
                    moved.append((handler, handler.setStream(now)))
                    break
    try:
        yield
    finally:
        for handler, stream in moved:
            handler.setStream(stream)
