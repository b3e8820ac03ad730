"""A checkpoint as it is now, in memory of the CPU, while training goes on."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor


class Snapshots:
    """Copies checkpoints into memory that is kept from one to the next.

    Tensors of a GPU go to pinned memory, all of them before the GPU is waited for once. Tensors
    that share memory share it in the copy. The next copy overwrites the last one.
    """

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def take(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """A copy that training cannot change any more."""
        self._free, self._kept = self._kept, []
        self._moved: dict[tuple[torch.device, int], Tensor] = {}
        taken: dict[str, Any] = self._copy(checkpoint)
        if any(device.type == "cuda" for device, _ in self._moved):
            torch.cuda.synchronize()
        del self._free, self._moved
        return taken

    def _copy(self, value: Any) -> Any:
        if type(value) in (Tensor, torch.nn.Parameter):
            return self._copy_tensor(value)
        if isinstance(value, Tensor):  # sharded, quantised, ...: it knows best
            return value.detach().clone().cpu()
        if isinstance(value, dict):
            new = copy.copy(value)  # keeps an OrderedDict's `_metadata`
            for key, part in value.items():
                new[key] = self._copy(part)
            return new
        if isinstance(value, list):
            return [self._copy(part) for part in value]
        if isinstance(value, tuple):
            parts = [self._copy(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return copy.deepcopy(value)

    def _copy_tensor(self, tensor: Tensor) -> Tensor:
        if tensor.layout != torch.strided or tensor.device.type == "meta":
            return tensor.detach().clone().cpu()
        storage = tensor.untyped_storage()
        place = (tensor.device, storage.data_ptr())
        if place not in self._moved or not storage.data_ptr():
            source = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            target = self._room(source)
            target.copy_(source, non_blocking=True)
            self._moved[place] = target
        memory = self._moved[place].untyped_storage()
        new = torch.empty(0, dtype=tensor.dtype)
        return new.set_(memory, tensor.storage_offset(), tensor.shape, tensor.stride())

    def _room(self, source: Tensor) -> Tensor:
        pinned = source.device.type == "cuda"
        for place, kept in enumerate(self._free):
            if kept.shape == source.shape and kept.is_pinned() == pinned:
                found = self._free.pop(place)
                break
        else:
            found = torch.empty(source.shape, dtype=torch.uint8, pin_memory=pinned)
        self._kept.append(found)
        return found
