"""Rates of matrix products and of copying: what a machine gives at best."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch

Shapes = tuple[tuple[int, int, int], ...]

# Products of n x k by k x m matrices: a minibatch's middle layer, and larger ones that come nearer to the peak.
SHAPES: Shapes = ((256, 512, 512), (2048, 512, 512), (2048, 1024, 1024))
# Larger than any cache of a processor.
COPIED_BYTES = 256 * 2**20
# What fills a GPU.
GPU_SHAPES: Shapes = ((8192, 8192, 8192),)


class Roofline:
    """Rates of matrix products of random numbers in GFLOP/s, measured time and again."""

    def __init__(self, dtypes: Iterable[torch.dtype], device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._is_cuda = self._device.type == "cuda"
        self._shapes = GPU_SHAPES if self._is_cuda else SHAPES
        self._rates = {dtype: {shape: list[float]() for shape in self._shapes} for dtype in dtypes}

    def measure(self, seconds: float = 0.1) -> None:
        """Time products of every type and shape."""
        for dtype, by_shape in self._rates.items():
            for (n, k, m), rates in by_shape.items():
                matrices = (n, k), (k, m), (n, m)
                left, right, out = (torch.randn(shape, device=self._device).to(dtype) for shape in matrices)
                self._multiply(left, right, out)
                stop = time.perf_counter() + seconds
                while (started := time.perf_counter()) < stop:
                    self._multiply(left, right, out)
                    rates.append(2e-9 * n * k * m / (time.perf_counter() - started))

    def medians(self) -> dict[str, dict[str, float]]:
        """By shape and type."""
        return {
            f"{n} x {k} by {k} x {m}": {
                str(dtype).removeprefix("torch."): float(np.median(rates[n, k, m]))
                for dtype, rates in self._rates.items()
            }
            for n, k, m in self._shapes
        }

    def peak(self, dtype: torch.dtype) -> float:
        """The best shape's median."""
        return max(float(np.median(rates)) for rates in self._rates[dtype].values())

    def _multiply(self, left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
        torch.mm(left, right, out=out)
        if self._is_cuda:
            torch.cuda.synchronize(self._device)


def copy_rate(repeats: int = 5) -> float:
    """Bytes a second that are read from memory and written back elsewhere, median of a few copies."""
    source = np.zeros(COPIED_BYTES // 8)
    target = np.ones_like(source)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - started)
    return float(COPIED_BYTES / np.median(seconds))
