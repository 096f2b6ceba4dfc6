"""``n_envs: "auto"`` is decided once for an identifier: what was chosen first stays, whatever a later measurement says.

A training with another number of environments learns something else. Its number is therefore noted beside the sealed
periods, of which each holds its own, and a policy that goes on from another one keeps that one's.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.save_util import load_from_zip_file

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive
from mtfscalper.settings import Settings

logger = logging.getLogger(__name__)

_NAME = "n_envs.json"
# What a number is chosen for, of the settings: of others a note says nothing.
_RL = {"net_arch", "net_arch_value", "network", "entry_mode", "vec_env", "env_workers"}


class EnvironmentsNote:
    """The numbers of environments that were chosen for an identifier."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # This process's own: a folder that cannot be written must not change the number in the middle of a run.
        self._chosen: dict[str, int] = {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> EnvironmentsNote:
        """
        :param config: the freqtrade config, with its run mode
        """
        return cls(Archive.from_config(config).root / _NAME)

    def decided(self, settings: Settings, initial_model: bytes | None, choose: Callable[[], Settings]) -> Settings:
        """The settings of a training: with the number of the model to go on from, else the one noted, else a new one.

        :param initial_model: zip of the model to go on from
        :param choose: decides by measurement
        """
        if settings.rl.n_envs != "auto":
            return settings
        key, rollout = _key(settings), settings.rl.environments * settings.ppo.n_steps
        before = _of_zip(initial_model) if initial_model is not None else None
        for number, where in (
            (before, "as the model to go on from has"),
            (self._chosen.get(key), ""),
            (self._noted().get(key), f"as chosen before, from {self._path}"),
        ):
            if isinstance(number, int) and 1 <= number <= rollout and rollout % number == 0:
                if where and number != self._chosen.get(key):
                    logger.info("n_envs 'auto' takes %d, %s.", number, where)
                self._chosen[key] = number
                return settings.with_environments(number)
        decided = choose()
        self._chosen[key] = decided.rl.environments
        with artefacts.told("The number of environments that n_envs 'auto' has chosen"):
            artefacts.write_json(self._path, self._noted() | self._chosen)
        return decided

    def _noted(self) -> dict[str, Any]:
        try:
            noted = json.loads(self._path.read_text())
        except (OSError, ValueError):
            # Nothing was chosen yet, or it cannot be read: chosen again.
            return {}
        return noted if isinstance(noted, dict) else {}


def _key(settings: Settings) -> str:
    return artefacts.value_hash([settings.lookback, settings.ppo.n_steps, settings.rl.model_dump(include=_RL)])


def _of_zip(model: bytes) -> int | None:
    data, _, _ = load_from_zip_file(io.BytesIO(model), load_data=True, device="cpu")
    return (data or {}).get("n_envs")
