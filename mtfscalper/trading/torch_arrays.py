"""The array namespace over torch tensors: the same rules on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mtfscalper.trading.arrays import map_arrays


class TorchNamespace:
    """The namespace over float64 tensors of one device."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    def where(self, condition: torch.Tensor, when_true: Any, when_false: Any) -> torch.Tensor:
        if not isinstance(when_true, torch.Tensor) and not isinstance(when_false, torch.Tensor):
            # Of two numbers torch would make float32.
            either = isinstance(when_true, float) or isinstance(when_false, float)
            dtype = torch.float64 if either else torch.int64
            when_true = torch.full((), when_true, dtype=dtype, device=self.device)
        return torch.where(condition, when_true, when_false)

    def where_each(
        self, condition: torch.Tensor, when_true: Sequence[Any], when_false: Sequence[Any]
    ) -> list[torch.Tensor]:
        return [self.where(condition, *pair) for pair in zip(when_true, when_false, strict=True)]

    @staticmethod
    def logical_and(left: Any, right: Any) -> Any:
        return left & right

    @staticmethod
    def logical_or(left: Any, right: Any) -> Any:
        return left | right

    @staticmethod
    def logical_not(value: torch.Tensor) -> torch.Tensor:
        return ~value

    @staticmethod
    def minimum(left: torch.Tensor, right: Any) -> torch.Tensor:
        return torch.minimum(left, right) if isinstance(right, torch.Tensor) else torch.clamp(left, max=right)

    @staticmethod
    def maximum(left: torch.Tensor, right: Any) -> torch.Tensor:
        return torch.maximum(left, right) if isinstance(right, torch.Tensor) else torch.clamp(left, min=right)

    log = staticmethod(torch.log)
    round = staticmethod(torch.round)
    floor = staticmethod(torch.floor)

    def asarray(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    @staticmethod
    def to_numpy(values: torch.Tensor) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = values.cpu().numpy()
        return array

    @staticmethod
    def to_index(values: torch.Tensor) -> torch.Tensor:
        return values.long()

    def replace_where(self, mask: torch.Tensor, group: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        """A group of tensors; where the mask holds, what a function makes of the arguments.

        Worked out for every member: to ask which are needed would stop the device.
        """
        return map_arrays(lambda new, old: self.where(mask, new, old), function(*arguments), group)

    @staticmethod
    def columns(matrix: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return matrix[rows].T.contiguous()

    @staticmethod
    def float32_rows(columns: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack([column.to(torch.float32) for column in columns], dim=1)

    @staticmethod
    def any(mask: torch.Tensor) -> bool:
        return bool(mask.any())

    @staticmethod
    def indices(mask: torch.Tensor) -> torch.Tensor:
        return mask.nonzero().squeeze(1)

    @staticmethod
    def put(values: torch.Tensor, indices: torch.Tensor, members: Any) -> torch.Tensor:
        changed = values.clone()
        changed[indices] = members
        return changed
