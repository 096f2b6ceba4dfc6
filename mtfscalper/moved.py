"""Where modules went that users' strategies and models may still import: said when one of them is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_STRATEGY = "mtfscalper.strategy"

# Old name to new name, both without the package's.
MOVED = {
    f"mtfscalper.{old}": new if new == _STRATEGY else f"mtfscalper.{new}"
    for old, new in {
        # What strategies import.
        "policy.columns": _STRATEGY,
        "strategy_rules": _STRATEGY,
        "trade_decisions": _STRATEGY,
        # What a model of one's own imports, or a script.
        "backtest_windows": "freqai.backtest_run",
        "freqai_model": "freqai.model",
        "market.windows": "market.lookback",
        "policy.decide": "policy.inference",
        "policy.query": "policy.inference",
        "policy.registry": "freqai.policy_store",
        "policy.replay": "policy.closed_loop",
        "policy.true_trade": "freqai.open_trade",
        "replay": "offline",
        "threads": "machine",
        "trading.namespace": "trading.arrays",
        "trading.torch_namespace": "trading.torch_arrays",
        "training.backend": "training.vec_env_choice",
        "training.networks": "training.paired_networks",
        "training.precision": "machine",
        "envs.window_observation": "envs.lookback_observation",
    }.items()
}


class _MovedModules(MetaPathFinder):
    """Asked before any other finder: a folder of the old name may still hold compiled files."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find nothing.

        :raises ImportError: for a module that has moved, with its new name
        """
        if fullname in MOVED:
            raise ImportError(f"{fullname} is now {MOVED[fullname]}; import from there", name=fullname)
        return None


def watch_imports() -> None:
    """From now on, answer imports of modules that have moved."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MovedModules())
