"""A graphed function is the function: run as it is while it warms up, then launched, or always run as it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from mtfscalper.training.graphs import GraphedFunction

CUDA = torch.device("cuda")


class Stream:
    """A stream as far as a capture needs one."""

    device = CUDA

    def __init__(self, device: torch.device) -> None:
        self.waited = 0

    def wait_stream(self, other: Stream) -> None:
        self.waited += 1


class Graph:
    """A graph that counts."""

    made: list[Graph]

    def __init__(self) -> None:
        self.replays = 0
        self.made.append(self)

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> type[Graph]:
    """torch.cuda's streams and graphs by hand."""

    @contextmanager
    def capturing(graph: Graph, stream: Stream) -> Iterator[None]:
        yield

    Graph.made = []
    current = Stream(CUDA)
    names: dict[str, Any] = {
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": capturing,
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda device: current,
    }
    for name, stub in names.items():
        monkeypatch.setattr(torch.cuda, name, stub)
    return Graph


def test_on_a_cpu_every_call_runs_as_it_is() -> None:
    total = torch.zeros(())
    graphed = GraphedFunction(lambda: total.add_(1), torch.device("cpu"))
    assert [float(graphed()) for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    assert not graphed.captured


def test_on_cuda_three_calls_warm_up_and_then_a_graph_is_captured_and_launched(cuda: type[Graph]) -> None:
    calls: list[int] = []
    graphed = GraphedFunction(lambda: calls.append(1), CUDA)
    for _ in range(3):
        graphed()
    assert not cuda.made
    for _ in range(4):
        graphed()
    assert graphed.captured
    # The fourth is the capture's own, which computes nothing.
    assert len(calls) == 4
    [graph] = cuda.made
    assert graph.replays == 4


def test_a_launch_returns_the_tensors_that_were_captured(cuda: type[Graph]) -> None:
    graphed = GraphedFunction(lambda: torch.zeros(1), CUDA)
    for _ in range(3):
        graphed()
    assert graphed() is graphed()


def test_where_a_capture_fails_calls_run_as_they_are_with_one_warning(
    cuda: type[Graph], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @contextmanager
    def failing(graph: Graph, stream: Stream) -> Iterator[None]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")
        yield

    monkeypatch.setattr(torch.cuda, "graph", failing)
    calls: list[int] = []
    graphed = GraphedFunction(lambda: calls.append(1), CUDA)
    with caplog.at_level(logging.WARNING):
        for _ in range(6):
            graphed()
    assert len(calls) == 6
    assert not graphed.captured
    [warning] = caplog.messages
    assert "(operation not permitted when stream is capturing); training goes on without" in warning
