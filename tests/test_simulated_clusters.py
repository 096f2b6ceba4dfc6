"""The simulation of a long run on a cluster, against cases that are worked out by hand."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("bench_clusters")


def test_two_workers_run_three_trainings_of_which_the_third_waits_at_hand(clusters: ModuleType) -> None:
    """Half a second to send each, a quarter to receive it, one second on the node beside it; three may be under way.

    Sent at 0.5, 1.0 and 1.5. The first runs from 0.5 to 11.5, the second from 1.0 to 6.0, the third after it to 11.0.
    They are here at 6.25, 11.25 and, from 11.5 on, 11.75.
    """
    beside = clusters.Beside(node=1.0, sending=0.5, receiving=0.25)
    assert clusters.simulated([10.0, 4.0, 4.0], 2, beside) == 11.75


def test_the_driver_sends_no_more_than_are_to_be_under_way_and_does_one_thing_at_a_time(clusters: ModuleType) -> None:
    """A second to send, one to receive; two may be under way.

    Sent at 1 and 2; the first runs until 3, and is here at 4. The third is sent until 5, when the second has ended,
    which is here at 6. The third runs from 5 to 7, and is here at 8.
    """
    beside = clusters.Beside(node=0.0, sending=1.0, receiving=1.0)
    assert clusters.simulated([2.0, 2.0, 2.0], 1, beside) == 8.0


def test_a_driver_that_is_slower_than_all_workers_together_sets_the_pace(clusters: ModuleType) -> None:
    free = clusters.Beside(node=0.0, sending=0.0, receiving=0.0)
    assert clusters.simulated([3.0] * 64, 16, free) == 12.0
    # Each takes the driver two seconds in all: beside that the workers wait.
    busy = clusters.Beside(node=0.0, sending=1.0, receiving=1.0)
    assert 128.0 <= clusters.simulated([3.0] * 64, 16, busy) <= 131.0
