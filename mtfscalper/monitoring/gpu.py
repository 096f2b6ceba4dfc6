"""Memory of NVIDIA GPUs, from their driver."""

from __future__ import annotations

import pynvml


class GpuMemory:
    """How much more memory all GPUs hold than at the beginning."""

    def __init__(self) -> None:
        self._before, self.most = self._used(), None if self._used() is None else 0

    def look(self) -> None:
        """Note what is held now."""
        used = self._used()
        if used is not None and self._before is not None and self.most is not None:
            self.most = max(self.most, used - self._before)

    @staticmethod
    def _used() -> int | None:
        """Bytes in use; None where no driver tells."""
        try:
            pynvml.nvmlInit()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            return sum(int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles)
        except pynvml.NVMLError:
            # No driver, no GPU.
            return None
