"""The array namespace over torch tensors: the same rules on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mtfscalper.trading.arrays import map_arrays


class TorchNamespace:
    """The namespace over float64 tensors of one device.

    Numbers that stand where a tensor is chosen are made tensors of the device once and kept: a run of the same lines
    makes no further ones, and can be captured as a CUDA graph after a first run.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self._constants: dict[tuple[Any, torch.dtype], torch.Tensor] = {}

    def where(self, condition: torch.Tensor, when_true: Any, when_false: Any) -> torch.Tensor:
        true_is_number, false_is_number = (not isinstance(value, torch.Tensor) for value in (when_true, when_false))
        if true_is_number and false_is_number:
            # Of two numbers torch would make float32.
            either = isinstance(when_true, float) or isinstance(when_false, float)
            dtype = torch.float64 if either else torch.int64
            when_true, when_false = self._constant(when_true, dtype), self._constant(when_false, dtype)
        elif true_is_number:
            when_true = self._constant(when_true, torch.result_type(when_false, when_true))
        elif false_is_number:
            when_false = self._constant(when_false, torch.result_type(when_true, when_false))
        return torch.where(condition, when_true, when_false)

    def where_each(
        self, condition: torch.Tensor, when_true: Sequence[Any], when_false: Sequence[Any]
    ) -> list[torch.Tensor]:
        return [self.where(condition, *pair) for pair in zip(when_true, when_false, strict=True)]

    def _constant(self, value: float | bool, dtype: torch.dtype) -> torch.Tensor:
        key = (value, dtype)
        if key not in self._constants:
            self._constants[key] = torch.full((), value, dtype=dtype, device=self.device)
        return self._constants[key]

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
    def if_any(mask: torch.Tensor, function: Callable[[], Any], otherwise: Any) -> Any:
        """See :meth:`mtfscalper.trading.arrays.ScalarNamespace.if_any`; to ask would stop the device."""
        return function()

    def table(self, columns: Sequence[npt.NDArray[Any]]) -> torch.Tensor:
        """Columns to look rows up in; the numbers of a column lie together, so that one call makes contiguous ones."""
        return self.asarray(np.stack(columns).astype(np.float64))

    @staticmethod
    def columns(table: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return table.gather(1, rows.expand(len(table), -1)).unbind()

    @staticmethod
    def float32_rows(columns: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack(list(columns), dim=1).to(torch.float32)

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


class Layout:
    """How the tensors of nested tuples lie, as the rows of one matrix for each type."""

    def __init__(self, example: Any) -> None:
        """
        :param example: nested tuples of tensors of shape (n,); every group laid out has its types
        """
        self._example = example
        self._dtypes = tuple(dict.fromkeys(leaf.dtype for leaf in _leaves(example)))

    def pack(self, group: Any) -> tuple[torch.Tensor, ...]:
        """
        :return: of each type, its tensors, shape (n_tensors, n)
        """
        leaves = _leaves(group)
        return tuple(torch.stack([leaf for leaf in leaves if leaf.dtype == dtype]) for dtype in self._dtypes)

    def unpack(self, matrices: Sequence[torch.Tensor]) -> Any:
        """The group that was packed, as views of the matrices."""
        rows = {matrix.dtype: iter(matrix.unbind()) for matrix in matrices}
        return map_arrays(lambda leaf: next(rows[leaf.dtype]), self._example)


def _leaves(group: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_arrays(found.append, group)
    return found
