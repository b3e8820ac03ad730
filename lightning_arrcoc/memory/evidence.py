"""What there is to see when memory has run out, before it is gone."""

from __future__ import annotations

import json
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_arrcoc.atomic import write_atomically
from lightning_arrcoc.memory import history
from lightning_arrcoc.memory.cause import Shortage
from lightning_arrcoc.memory.readings import MIB
from lightning_arrcoc.memory.tensors import alive

MOST = 30  # rows of the list of tensors


class Held(NamedTuple):
    """A tensor that is alive.

    Attributes:
        module: whose it is, by name; "" where nobody's is known.
        what: its name there, or its part: a gradient, the optimizer's, a variable.
        shape, dtype, device: as torch prints them.
        mib: its size.
    """

    module: str
    what: str
    shape: list[int]
    dtype: str
    device: str
    mib: float


def under_way(error: BaseException, module: nn.Module) -> str | None:
    """The name of the innermost part of a module whose forward an error came through."""
    names = {id(part): name or type(module).__name__ for name, part in module.named_modules()}
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "forward":
            found = names.get(id(frame.f_locals.get("self")), found)
    return found


def largest(
    module: nn.Module, optimizers: Iterable[Any], batch: Any, error: BaseException | None
) -> tuple[list[Held], dict[str, float]]:
    """The largest tensors that Python knows, and MiB by module.

    Activations that only the graph holds are not among them: the snapshot has those.
    """
    owners = _owners(module, optimizers, batch, error.__traceback__ if error else None)
    found: list[Held] = []
    by_module: dict[str, float] = defaultdict(float)
    seen: set[int] = set()
    for tensor in alive():
        try:
            storage = tensor.untyped_storage()
            key, size = storage.data_ptr(), storage.nbytes() / MIB
        except (NotImplementedError, RuntimeError):  # sparse, meta and the like
            continue
        if key in seen or not size:
            continue
        seen.add(key)
        owner, what = owners.get(key, ("", "unknown"))
        dtype = str(tensor.dtype).removeprefix("torch.")
        found.append(Held(owner, what, [*tensor.shape], dtype, str(tensor.device), size))
        by_module[owner or what] += size
    found.sort(key=lambda held: -held.mib)
    largest_first = sorted(by_module.items(), key=lambda row: -row[1])
    return found[:MOST], {name: round(size, 3) for name, size in largest_first[:MOST]}


def shapes(batch: Any) -> Any:
    """A batch with its tensors' shapes in their place."""
    if isinstance(batch, Tensor):
        return f"{[*batch.shape]} {str(batch.dtype).removeprefix('torch.')}"
    if isinstance(batch, Mapping):
        return {str(key): shapes(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [shapes(value) for value in batch[:MOST]]
    return type(batch).__name__


def write(
    folder: Path, cause: str, shortage: Shortage, details: Mapping[str, Any], snapshot: Any
) -> list[Path]:
    """Write `evidence.json`, and with a snapshot `snapshot.pickle` and `snapshot.html`.

    Raises:
        OSError: it cannot be written.
    """
    told = {"cause": cause, **shortage._asdict(), **details}
    path = folder / "evidence.json"
    write_atomically(path, lambda file: file.write(json.dumps(told, indent=1).encode()))
    return [path, *(history.write(snapshot, folder) if snapshot is not None else [])]


def _owners(
    module: nn.Module, optimizers: Iterable[Any], batch: Any, trace: TracebackType | None
) -> dict[int, tuple[str, str]]:
    """Memory -> whose it is and what; the first to claim it has it."""
    owners: dict[int, tuple[str, str]] = {}

    def claim(tensor: Any, owner: str, what: str) -> None:
        if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
            owners.setdefault(tensor.untyped_storage().data_ptr(), (owner, what))

    names: dict[int, str] = {}
    for name, parameter in module.named_parameters():
        owner, _, what = name.rpartition(".")
        names[id(parameter)] = name
        claim(parameter, owner, what)
        claim(parameter.grad, owner, f"gradient of {what}")
    for name, buffer in module.named_buffers():
        claim(buffer, *name.rpartition(".")[::2])
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            owner, _, what = names.get(id(parameter), "").rpartition(".")
            for key, value in state.items() if isinstance(state, dict) else ():
                claim(value, owner, f"optimizer's {key} of {what}")
    for tensor in _tensors(batch):
        claim(tensor, "", "batch")
    parts = {id(part): name or type(module).__name__ for name, part in module.named_modules()}
    for frame, _ in traceback.walk_tb(trace):
        owner = parts.get(id(frame.f_locals.get("self")), "")
        for name, value in list(frame.f_locals.items()):
            for tensor in _tensors(value):
                claim(tensor, owner, f"variable `{name}` in {frame.f_code.co_name}")
    return owners


def _tensors(value: Any, depth: int = 3) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, Mapping | list | tuple):
        for part in list(value.values() if isinstance(value, Mapping) else value)[:100]:
            yield from _tensors(part, depth - 1)
