"""What a device is told to do: counted, and refused where the host would wait for it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_DRAWS = ("rand", "randn", "randint", "randperm", "bernoulli", "uniform", "normal", "multinomial", "exponential")
_READS = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "lift_fresh")
_BY_INDICES = ("index", "index_put", "_index_put_impl", "_unsafe_index", "_unsafe_index_put")


class NoHost(TorchDispatchMode):
    """Fails at whatever makes the host wait for the device, or has a shape or an address that depends on values.

    :ivar counts: operations by name, views left out
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__.rstrip("_")
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        assert name not in _DRAWS, name
        assert not any(name.lstrip("_").startswith(read.lstrip("_")) for read in _READS), name
        if name in _BY_INDICES:
            assert not any(index is not None and index.dtype == torch.bool for index in args[1]), f"{name} with a mask"
        if not function.is_view:
            self.counts[name] += 1
        result = function(*args, **(kwargs or {}))
        made = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
        assert len({tensor.device for tensor in (*tensors, *made)}) <= 1, f"{name} from device to device"
        return result
