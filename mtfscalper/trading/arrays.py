"""Array namespaces: the same rules over NumPy arrays and over plain Python numbers.

Batch one through NumPy costs tens of microseconds a step in call overhead alone; Python numbers do not pay it.
Torch's namespace stands in a file of its own: importing torch takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

# What the rules compute with, in the namespace at hand: a Python number, an array or a tensor of shape (n,).
Array: TypeAlias = Any


class Namespace(Protocol):
    """The few functions that the trading rules need of an array library."""

    def where(self, condition: Array, when_true: Array, when_false: Array) -> Array: ...
    def where_each(
        self, condition: Array, when_true: Sequence[Array], when_false: Sequence[Array]
    ) -> Sequence[Array]: ...
    def logical_and(self, left: Array, right: Array) -> Array: ...
    def logical_or(self, left: Array, right: Array) -> Array: ...
    def logical_not(self, value: Array) -> Array: ...
    def minimum(self, left: Array, right: Array) -> Array: ...
    def maximum(self, left: Array, right: Array) -> Array: ...
    def log(self, value: Array) -> Array: ...
    def round(self, value: Array) -> Array: ...
    def floor(self, value: Array) -> Array: ...
    def to_index(self, values: Array) -> Array: ...
    def replace_where(self, mask: Array, group: Any, function: Callable[..., Any], *arguments: Array) -> Array: ...
    def if_any(self, mask: Array, function: Callable[[], Any], otherwise: Any) -> Any: ...


class ScalarNamespace:
    """The namespace over Python floats and bools: batch one."""

    @staticmethod
    def where(condition: bool, when_true: Any, when_false: Any) -> Any:
        return when_true if condition else when_false

    # Of two sequences it is the same choice.
    where_each = where

    @staticmethod
    def logical_and(left: bool, right: bool) -> bool:
        return left and right

    @staticmethod
    def logical_or(left: bool, right: bool) -> bool:
        return left or right

    @staticmethod
    def logical_not(value: bool) -> bool:
        return not value

    @staticmethod
    def minimum(left: float, right: float) -> float:
        return left if left < right else right

    @staticmethod
    def maximum(left: float, right: float) -> float:
        return left if left > right else right

    @staticmethod
    def log(value: float) -> float:
        # Not math.log: a single environment and a batch of them agree to the last bit. When flat it is that of 1.
        return 0.0 if value == 1.0 else float(np.log(value))

    round = staticmethod(round)
    floor = staticmethod(math.floor)
    to_index = staticmethod(int)

    @staticmethod
    def replace_where(mask: bool, group: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        """A group, or where the mask holds what a function makes of the arguments."""
        return function(*arguments) if mask else group

    @staticmethod
    def if_any(mask: bool, function: Callable[[], Any], otherwise: Any) -> Any:
        """What a function gives, unless the mask holds for nobody: then ``otherwise``, in whose place it would do as
        well, so that the work is spared."""
        return function() if mask else otherwise


class BatchNamespace(Namespace, Protocol):
    """What a batch of environments needs beside the rules: to move and to pick members."""

    def asarray(self, values: npt.NDArray[Any]) -> Array: ...
    def to_numpy(self, values: Array) -> npt.NDArray[Any]: ...
    def table(self, columns: Sequence[npt.NDArray[Any]]) -> Array: ...
    def columns(self, table: Array, rows: Array) -> Array: ...
    def float32_rows(self, columns: Sequence[Any]) -> Array: ...
    def any(self, mask: Array) -> bool: ...
    def indices(self, mask: Array) -> Array: ...
    def put(self, values: Array, indices: Array, members: Array) -> Array: ...


class NumpyNamespace:
    """The namespace over NumPy arrays."""

    where = staticmethod(np.where)

    @staticmethod
    def where_each(
        condition: npt.NDArray[np.bool_], when_true: Sequence[Any], when_false: Sequence[npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """:func:`numpy.where` of pairs, in the types of ``when_false``; faster where the condition seldom holds."""
        indices = condition.nonzero()[0]
        chosen = [values.copy() for values in when_false]
        for values, new in zip(chosen, when_true, strict=True):
            values[indices] = new[indices] if isinstance(new, np.ndarray) else new
        return chosen

    logical_and = staticmethod(np.logical_and)
    logical_or = staticmethod(np.logical_or)
    logical_not = staticmethod(np.logical_not)
    minimum = staticmethod(np.minimum)
    maximum = staticmethod(np.maximum)
    log = staticmethod(np.log)
    round = staticmethod(np.rint)
    floor = staticmethod(np.floor)
    asarray = staticmethod(np.asarray)

    @staticmethod
    def to_numpy(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values

    @staticmethod
    def to_index(values: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
        """Whole numbers as positions."""
        return values.astype(np.intp)

    @classmethod
    def replace_where(
        cls, mask: npt.NDArray[np.bool_], group: Any, function: Callable[..., Any], *arguments: Any
    ) -> Any:
        """A group of arrays; where the mask holds, what a function makes of the arguments' members there."""
        positions = mask.nonzero()[0]
        if not len(positions):
            return group
        return put_members(cls, group, positions, function(*take_members(arguments, positions)))

    @staticmethod
    def if_any(mask: npt.NDArray[np.bool_], function: Callable[[], Any], otherwise: Any) -> Any:
        """See :meth:`ScalarNamespace.if_any`."""
        return function() if np.count_nonzero(mask) else otherwise

    @staticmethod
    def table(columns: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
        """Columns to look rows up in; the numbers of a row lie together in memory."""
        return np.stack(columns, axis=1).astype(np.float64)

    @staticmethod
    def columns(table: npt.NDArray[np.float64], rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
        """The columns of some rows of a table, each contiguous."""
        return table.take(rows, axis=0).T.copy()

    @staticmethod
    def float32_rows(columns: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """A matrix of columns."""
        rows = np.empty((len(columns[0]), len(columns)), dtype=np.float32)
        for at, column in enumerate(columns):
            rows[:, at] = column
        return rows

    @staticmethod
    def any(mask: npt.NDArray[np.bool_]) -> bool:
        # Of a small mask in a quarter of the time that mask.any() takes.
        return bool(np.count_nonzero(mask))

    @staticmethod
    def indices(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
        """Where a mask holds."""
        return mask.nonzero()[0]

    @staticmethod
    def put(values: npt.NDArray[Any], indices: npt.NDArray[np.intp], members: Any) -> npt.NDArray[Any]:
        """A copy of ``values`` with other values at the indices."""
        changed = values.copy()
        changed[indices] = members
        return changed


def map_arrays(function: Callable[..., Any], *groups: Any) -> Any:
    """Apply a function to every array of one or more nested tuples of arrays."""
    values = [
        map_arrays(function, *parts) if isinstance(parts[0], tuple) else function(*parts)
        for parts in zip(*groups, strict=True)
    ]
    kind = type(groups[0])
    return kind(*values) if hasattr(kind, "_fields") else tuple(values)


def take_members(group: Any, positions: Any) -> Any:
    """The members of a batch at some positions."""
    return map_arrays(lambda values: values[positions], group)


def put_members(xp: type[NumpyNamespace] | BatchNamespace, group: Any, positions: Any, members: Any) -> Any:
    """A batch with other members at some positions."""
    return map_arrays(lambda values, new: xp.put(values, positions, new), group, members)


SCALAR: Namespace = ScalarNamespace()
NUMPY: BatchNamespace = NumpyNamespace()
