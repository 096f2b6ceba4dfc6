"""A function of tensors that stay where they are, as a CUDA graph where there are such graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# Calls before a capture: libraries and allocators set themselves up, which a graph cannot hold.
_WARM_UP_CALLS = 3


class GraphedFunction(Generic[_T]):
    """A function without arguments that reads and writes tensors at fixed addresses, and neither waits nor draws.

    On a CUDA device its first calls run as they are, on a stream of their own; then it is captured, and every later
    call is one launch of the graph and returns the same tensors with new contents. On other devices, and where it
    cannot be captured, every call runs as it is.

    :ivar captured: whether calls are launches of a graph
    """

    def __init__(self, function: Callable[[], _T], device: torch.device) -> None:
        self.captured = False
        self._function = function
        self._call: Callable[[], _T] = function
        if device.type == "cuda":
            self._calls_left = _WARM_UP_CALLS
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._call = self._warm_up

    def __call__(self) -> _T:
        return self._call()

    def _warm_up(self) -> _T:
        if not self._calls_left:
            return self._capture()
        self._calls_left -= 1
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = self._function()
        current.wait_stream(self._stream)
        return result

    def _capture(self) -> _T:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                result = self._function()
        except RuntimeError as error:
            logger.warning(
                "A CUDA graph cannot be captured here (%s); training goes on without, slower.",
                (str(error).strip().splitlines() or [type(error).__name__])[0],
            )
            self._call = self._function
        else:
            self.captured = True

            def replay() -> _T:
                graph.replay()
                return result

            self._call = replay
        # A capture computes nothing.
        return self._call()
