"""Where a study's trainings run changes none of its figures: in the trial's process, in others, or all at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib.util import find_spec
from typing import Any, NamedTuple

import pandas as pd
import pytest
from freqtrade.misc import deep_merge_dicts
from studies import FREQAI, StudyHome, write_candles

from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.search.run_figures import RunFigures
from mtfscalper.search.study_folder import StudyFolder

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]

TRIALS, PERIODS = 2, 2
# Who logs a training that was planned with others, as all but inline ones are.
PLANNED = "mtfscalper.freqai.planned_trainings - INFO - Done training"
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed; make acceptance installs it")


class Found(NamedTuple):
    """What a study came to.

    :ivar figures: of its runs, in the order of trials, without what the clock says
    :ivar planned: trainings that were planned and run by an executor
    """

    figures: list[RunFigures]
    trades: list[pd.DataFrame]
    planned: int


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Found]]:
    """Runs a study by the command, with settings of ``rl_config``; the same ones once."""
    data = write_candles(tmp_path_factory.mktemp("data"))
    known: dict[str, Found] = {}
    with ReplayExchange(data) as exchange:

        def run(**settings: Any) -> Found:
            key = json.dumps(settings, sort_keys=True)
            if key not in known:
                section = deep_merge_dicts({"rl_config": {"threads_per_job": 1, **settings}}, deepcopy(FREQAI))
                home = StudyHome(tmp_path_factory.mktemp("study"), exchange.url, market=data, freqai=section)
                known[key] = _run(home)
            return known[key]

        yield run


def _run(home: StudyHome) -> Found:
    ran = home.run("--trials", str(TRIALS), "--seeds", "1", "--seed", "5", timeout=1800)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    folder = StudyFolder(home.user / "studies" / "small")
    [seed] = folder.spec.tuning_seeds
    figures, trades = [], []
    for number in range(TRIALS):
        found = RunFigures.from_json(json.loads(folder.run_file(number, seed).read_text()))
        figures.append(found._replace(seconds=0.0, training_seconds=0.0))
        trades.append(pd.read_feather(folder.trades_file(number, seed)))
    log = (folder.logs / "worker_0.log").read_text()
    assert "Traceback" not in log
    return Found(figures, trades, log.count(PLANNED))


@pytest.mark.parametrize(
    ("executor", "beside"),
    [
        ("processes", {"vec_env": "batched", "workers": 2}),
        # Wholly on the device, as it is with "inline" and these environments.
        ("population", {"vec_env": "torch"}),
        pytest.param("ray", {"vec_env": "batched"}, marks=needs_ray),
    ],
)
def test_an_executor_gives_a_study_the_values_of_inline(
    executor: str, beside: dict[str, Any], study: Callable[..., Found]
) -> None:
    inline = study(executor="inline", vec_env=beside["vec_env"])
    found = study(executor=executor, **beside)
    on_device = beside["vec_env"] == "torch"
    assert (inline.planned, found.planned) == (TRIALS * PERIODS if on_device else 0, TRIALS * PERIODS)
    # Bit for bit, and not because nothing was traded or both trials are alike.
    assert found.figures == inline.figures
    assert all(one.equals(other) for one, other in zip(found.trades, inline.trades, strict=True))
    assert all(one.trades > 0 and any(one.differences) for one in found.figures)
    assert found.figures[0].differences != found.figures[1].differences
