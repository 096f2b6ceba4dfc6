"""Array namespaces: the same rules over NumPy arrays and over plain Python numbers.

Batch one through NumPy costs tens of microseconds a step in call overhead alone; Python numbers do not pay it.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np


class Namespace(Protocol):
    """The few functions that the trading rules need of an array library."""

    def where(self, condition: Any, when_true: Any, when_false: Any) -> Any: ...
    def logical_and(self, left: Any, right: Any) -> Any: ...
    def logical_or(self, left: Any, right: Any) -> Any: ...
    def logical_not(self, value: Any) -> Any: ...
    def minimum(self, left: Any, right: Any) -> Any: ...
    def maximum(self, left: Any, right: Any) -> Any: ...
    def log(self, value: Any) -> Any: ...
    def round(self, value: Any) -> Any: ...


class ScalarNamespace:
    """The namespace over Python floats and bools: batch one."""

    @staticmethod
    def where(condition: bool, when_true: Any, when_false: Any) -> Any:
        return when_true if condition else when_false

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

    log = staticmethod(math.log)
    round = staticmethod(round)


SCALAR: Namespace = ScalarNamespace()
NUMPY: Namespace = np
