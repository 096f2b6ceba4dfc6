"""A pytest plugin: freqtrade's own FreqAI tests, with this package's model in place of freqtrade's learners.

``make freqtrade-tests FREQTRADE=/path/to/freqtrade`` loads it (``-p freqtrade_originals``) in a checkout of freqtrade,
whose tests are in neither of its packages. What is tested is the freqtrade that is installed, not the checkout's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Before the checkout's own packages can be found: whatever is imported later belongs to the one imported first.
import freqtrade  # noqa: F401
import pytest
from freqtrade.resolvers.freqaimodel_resolver import FreqaiModelResolver

MODEL = "MtfScalperRLModel"
MODEL_PATH = Path(__file__).parents[1] / "user_data" / "freqaimodels"
# freqtrade's own learners that this model stands in for. Others bring an environment of their own.
REPLACED = ("ReinforcementLearner", "ReinforcementLearner_multiproc")
# Tests of a learner that no parameter names.
UNNAMED = ("test_get_state_info",)
# Small trainings; a strategy without signals of its own.
SETTINGS: dict[str, Any] = {
    "entry_mode": "agent",
    "n_steps": 64,
    "batch_size": 32,
    "n_envs": 2,
    "n_epochs": 1,
    "vec_env": "dummy",
    "progress_bar": False,
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of freqtrade's learners."""
    kept = [item for item in items if _is_of_a_learner(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _is_of_a_learner(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    model = None if call is None else call.params.get("model")
    return model in REPLACED or (model is None and getattr(item, "originalname", item.name) in UNNAMED)


@pytest.fixture(autouse=True)
def _this_packages_model(monkeypatch: pytest.MonkeyPatch) -> None:
    real = FreqaiModelResolver.load_freqaimodel

    def load(config: dict[str, Any]) -> Any:
        if config["freqaimodel"] not in REPLACED:
            return real(config)
        rl = config["freqai"]["rl_config"]
        rl.update({name: value for name, value in SETTINGS.items() if name not in rl})
        # What freqtrade's learner switches off with a warning is refused here at the start.
        config["freqai"]["data_split_parameters"]["shuffle"] = False
        config.update({"freqaimodel": MODEL, "freqaimodel_path": str(MODEL_PATH)})
        return real(config)

    monkeypatch.setattr(FreqaiModelResolver, "load_freqaimodel", staticmethod(load))
