"""What environments in worker processes and their parent tell each other at each step, in memory that both have."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from math import prod
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

# Each array begins at a multiple of this: a line of a processor's cache.
_ALIGNMENT = 64


class Field(NamedTuple):
    """The place of one of the arrays."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int


class Layout(NamedTuple):
    """Where the arrays lie: the same in the parent and in every worker."""

    fields: dict[str, Field]
    size: int

    @classmethod
    def of_spaces(cls, observation: spaces.Space[Any], action: spaces.Space[Any], n_envs: int) -> Layout:
        """The layout of so many environments.

        :raises RuntimeError: if values of a space are not one array of a fixed shape
        """
        for name, space in (("observation", observation), ("action", action)):
            if not isinstance(space, spaces.Box | spaces.Discrete):
                raise RuntimeError(
                    f"the {name} space is a {type(space).__name__}; accepted: Box or Discrete, which fit into shared "
                    "memory; remedy: set vec_env to 'dummy'"
                )
        fields, size = {}, 0
        for name, dtype, of_one in (
            ("actions", action.dtype, action.shape),
            ("observations", observation.dtype, observation.shape),
            ("terminal_observations", observation.dtype, observation.shape),
            ("rewards", np.float32, ()),
            ("dones", np.bool_, ()),
            ("cut_off", np.bool_, ()),
        ):
            shape = (n_envs, *(of_one or ()))
            fields[name] = Field(shape, np.dtype(dtype), size)
            size += -(-prod(shape) * fields[name].dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        return cls(fields, size)


class StepMemory:
    """The arrays of a step, a row for each environment, in a segment of shared memory.

    :ivar name: by which workers find the segment
    :ivar actions: of the step to come
    :ivar observations: after the step, of the next episode where one ended
    :ivar terminal_observations: the last of an episode, where one ended
    :ivar rewards: float32
    :ivar dones: where an episode ended
    :ivar cut_off: where it was truncated and not terminated
    """

    actions: npt.NDArray[Any]
    observations: npt.NDArray[Any]
    terminal_observations: npt.NDArray[Any]
    rewards: npt.NDArray[np.float32]
    dones: npt.NDArray[np.bool_]
    cut_off: npt.NDArray[np.bool_]

    def __init__(self, segment: SharedMemory, layout: Layout, rows: slice = slice(None)) -> None:
        assert segment.buf is not None
        for name, (shape, dtype, offset) in layout.fields.items():
            # Unlike numpy.ndarray(buffer=...), an array made so holds the memory as long as it lives.
            array = np.frombuffer(segment.buf, dtype, prod(shape), offset)
            setattr(self, name, array.reshape(shape)[rows])
        # After the arrays, which are then the first to go where nobody closes this: a segment in use does not close.
        self._segment = segment
        self.name = segment.name

    @classmethod
    @contextlib.contextmanager
    def created(cls, layout: Layout) -> Iterator[StepMemory]:
        """A new segment, which has a name while the block runs.

        Whoever has found it by then keeps it. Nothing of it is left once its last process is gone, however that ends.

        :raises OSError: if there is no room for it
        """
        segment = SharedMemory(create=True, size=layout.size)
        try:
            _reserve(segment)
            yield cls(segment, layout)
        finally:
            segment.unlink()

    @classmethod
    def found(cls, name: str, layout: Layout, rows: slice) -> StepMemory:
        """The segment of another process, while it has a name.

        :param rows: of the environments that are asked for
        """
        if sys.version_info >= (3, 13):
            segment = SharedMemory(name, track=False)
        else:
            # It is noted as this process's own with the tracker that it shares with its parent, who crosses it out.
            segment = SharedMemory(name)
        return cls(segment, layout, rows)

    def close(self) -> None:
        """Give the memory back."""
        for name in self.__annotations__:
            vars(self).pop(name, None)
        # Somebody still holds an array: its memory goes with it.
        with contextlib.suppress(BufferError):
            self._segment.close()


def _reserve(segment: SharedMemory) -> None:
    """Take the pages now: where there is no room, the first write to a missing one would end the process by SIGBUS."""
    path = f"/dev/shm/{segment.name}"
    if not os.path.exists(path):
        # Another system than Linux.
        return
    file = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(file, 0, segment.size)
    finally:
        os.close(file)
