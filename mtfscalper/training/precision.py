"""``precision`` and ``compile``: what a setting of "auto" means on the machine at hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch._dynamo.exc import TorchDynamoException

logger = logging.getLogger(__name__)

# Products of matrices in bfloat16 are instructions of the processor, not float32 with rounding around it.
_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


def has_bf16(device: torch.device) -> bool:
    """Whether torch multiplies matrices in bfloat16 by a device's own instructions.

    On a processor oneDNN does; without it a product in bfloat16 is a plain loop.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in _BF16_INSTRUCTIONS)
    return False


def precision_on(precision: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision that a setting means: "auto" is bfloat16 where the device has it, else float32.

    Decisions are made in float32 either way; docs/benchmarks.md compares what the two learn.
    """
    if precision == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    return "bf16" if precision == "bf16" else "fp32"


def compiles_on(compile_setting: bool | str, device: torch.device) -> bool:
    """Whether a setting means ``torch.compile``: "auto" does where launching kernels takes the time, on a GPU.

    On a CPU the loss is a small part of an update, and compiling takes longer than it saves (docs/benchmarks.md).
    """
    return device.type == "cuda" if compile_setting == "auto" else bool(compile_setting)


class CompiledFunction:
    """A function under ``torch.compile``, or as it is where the compiler does not work."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._plain = function
        self._function = torch.compile(function, dynamic=False)

    @property
    def compiled(self) -> bool:
        """Whether the compiler works, as far as is known: before the first call it is taken to."""
        return self._function is not self._plain

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self._function(*arguments)
        except TorchDynamoException as error:
            # The first line names what is missing; the rest is a stack trace of the compiler.
            logger.warning(
                "freqai.rl_config.compile is on, but torch.compile does not work here (%s); training goes on without.",
                str(error).strip().splitlines()[0],
            )
            self._function = self._plain
            return self._plain(*arguments)
