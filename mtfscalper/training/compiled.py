"""A function under ``torch.compile``, where the compiler works."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)


class CompiledFunction:
    """A function under ``torch.compile``, or as it is where the compiler does not work."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any] | None = None) -> None:
        """
        :param options: of ``torch.compile``
        """
        # Here, where it is needed anyway: each command and each process that compiles nothing begins a second sooner.
        from torch._dynamo.exc import TorchDynamoException

        self._failure = TorchDynamoException
        self._plain = function
        self._function = torch.compile(function, dynamic=False, options=options)

    @property
    def compiled(self) -> bool:
        """Whether the compiler works, as far as is known: before the first call it is taken to."""
        return self._function is not self._plain

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self._function(*arguments)
        except self._failure as error:
            # The first line names what is missing; the rest is a stack trace of the compiler.
            logger.warning(
                "freqai.rl_config.compile is on, but torch.compile does not work here (%s); training goes on without.",
                str(error).strip().splitlines()[0],
            )
            self._function = self._plain
            return self._plain(*arguments)
