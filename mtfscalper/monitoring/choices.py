"""Ways to run one and the same training: what a machine may do faster, and the settings that say so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

BACKENDS = ("subproc", "dummy", "batched", "torch")


class Choice(NamedTuple):
    """How a training runs, under the names of ``freqai.rl_config``."""

    vec_env: str
    cpu_count: int
    interop_threads: int
    precision: str
    device: str

    def __str__(self) -> str:
        threads = f"{self.cpu_count} + {self.interop_threads} threads"
        return f"{self.vec_env}, {threads}, {self.precision}, {self.device}"

    def differences(self, other: Choice) -> dict[str, Any]:
        """The keys in which another choice differs, with the other's values."""
        return {key: new for key, old, new in zip(self._fields, self, other, strict=True) if old != new}


class Abilities(NamedTuple):
    """What a machine and a training can do.

    :ivar processors: that the run may use
    :ivar devices: of torch, those of ``freqai.rl_config.device``
    :ivar bf16: of these, the ones that multiply in bfloat16 by instructions of their own
    :ivar backends: of :data:`BACKENDS`, those that train this
    """

    processors: int
    devices: tuple[str, ...]
    bf16: tuple[str, ...]
    backends: tuple[str, ...]


def alternatives(
    yours: Choice, abilities: Abilities, accepts: Callable[[Choice], bool] = lambda _: True
) -> dict[str, list[Choice]]:
    """What to time beside a choice, each different in one key; key to choices.

    Another device comes in each precision, and a GPU with the environments on it too: neither alone may be faster.

    :param accepts: whether the settings would take a choice; the others are not timed
    """
    counts = {1, abilities.processors, *(2**k for k in range(1, abilities.processors.bit_length()))}
    values: dict[str, Iterable[Any]] = {
        "vec_env": abilities.backends,
        "cpu_count": sorted(count for count in counts if count <= abilities.processors),
        "interop_threads": sorted({1, min(2, abilities.processors)}),
        "precision": _precisions(yours.device, abilities),
    }
    found = {
        key: [yours._replace(**{key: value}) for value in wanted if value != getattr(yours, key)]
        for key, wanted in values.items()
    }
    found["device"] = [
        yours._replace(device=device, precision=precision, vec_env=vec_env)
        for device in abilities.devices
        if device != yours.device
        for precision in _precisions(device, abilities)
        for vec_env in dict.fromkeys((yours.vec_env, "torch" if _on_device(device, abilities) else yours.vec_env))
    ]
    accepted = {key: [choice for choice in choices if accepts(choice)] for key, choices in found.items()}
    return {key: choices for key, choices in accepted.items() if choices}


def _precisions(device: str, abilities: Abilities) -> tuple[str, ...]:
    return ("fp32", "bf16") if device in abilities.bf16 else ("fp32",)


def _on_device(device: str, abilities: Abilities) -> bool:
    return device != "cpu" and "torch" in abilities.backends


def as_config(changes: dict[str, Any]) -> dict[str, Any]:
    """Changes of ``rl_config`` as a configuration file holds them, to be given as one more ``--config``."""
    return {"freqai": {"rl_config": changes}} if changes else {}
