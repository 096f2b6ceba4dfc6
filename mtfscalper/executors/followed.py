"""A watch that is told of each training's end too, whatever becomes of it."""

from __future__ import annotations

from mtfscalper.training.request import TrainingRequest
from mtfscalper.training.watching import TrainingState, Watch


class Followed:
    """Hands on how far trainings are, and remembers it until they end."""

    def __init__(self, watch: Watch | None) -> None:
        """
        :param watch: None where nobody looks on
        """
        self._watch = watch
        self._states: dict[tuple[str, str], TrainingState] = {}

    def __call__(self, state: TrainingState) -> None:
        """See :data:`mtfscalper.training.watching.Watch`."""
        if state.has_ended:
            self._states.pop((state.name, state.part), None)
        else:
            self._states[state.name, state.part] = state
        if self._watch is not None:
            self._watch(state)

    def end(self, job: TrainingRequest) -> None:
        """Say that nobody works at a training any more, if it was begun and that was not said."""
        state = self._states.get((job.name, job.part))
        if state is not None:
            self(state._replace(has_ended=True))
