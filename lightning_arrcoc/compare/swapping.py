"""Weights into a model and out of it again, all of them or none."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_arrcoc.compare.blueprint import LoraSettings, skeleton
from lightning_arrcoc.compare.errors import SwapError
from lightning_arrcoc.compare.reading import ADAPTED, OWN, Weights
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.lora import (
    Adapters,
    add_lora,
    lora_parameters,
    put_in_lora,
    take_out_lora,
)

MOST_NAMED = 3  # Chosen by us: of many names that do not fit the first few tell what is wrong
MOST_ADAPTERS = 4  # Chosen by us: without weights they take little, and to make them takes a while


class Swapper:
    """Puts small weights into one model. Its backbone is shared by all and never copied.

    Not for several threads at once.
    """

    def __init__(self, model: ArrCocQwen3VL) -> None:
        self.model = model
        self._adapters: dict[LoraSettings, Adapters] = {}

    @contextmanager
    def swapped(self, name: str, weights: Weights) -> Iterator[None]:
        """Inside, the model has these weights; before and after, what it had.

        The small network is a fresh one, so that nothing is written into the one that waits
        outside. Whoever keeps it beyond the end finds it without weights.

        Raises:
            SwapError: not all names and shapes fit. Nothing was changed.
        """
        model = self.model
        previous, select, budget = model.arr_coc, model.select, model.budget
        fresh = copy.deepcopy(skeleton(weights.build, query_dim(model)))
        fresh.allocator.num_positions = budget
        try:
            with self._adapted(weights.lora):
                own = {f"{OWN}{key}": value for key, value in fresh.state_dict().items()}
                adapters = lora_parameters(model.backbone)
                refuse_partial(
                    name, weights.tensors, own | {f"{ADAPTED}{k}": v for k, v in adapters.items()}
                )
                device = model.backbone.device
                fill(fresh, weights.tensors, OWN, device)
                fill_adapters(model.backbone, weights.tensors, device)
                refuse_empty(name, fresh)
                model.arr_coc = fresh.eval().requires_grad_(False)
                yield
        finally:
            model.arr_coc, model.select = previous, select
            fresh.to("meta")

    @contextmanager
    def _adapted(self, settings: LoraSettings | None) -> Iterator[None]:
        """Inside, the backbone has adapters with room for weights; none where there are none."""
        if settings is None:
            yield
            return
        backbone = self.model.backbone
        known = self._adapters.pop(settings, None)
        if known is None:
            learning = [(weight, weight.requires_grad) for weight in backbone.parameters()]
            with torch.random.fork_rng(devices=[]):
                add_lora(backbone, **settings._asdict())
            known = take_out_lora(backbone)
            for weight, learns in learning:  # peft freezes them
                weight.requires_grad_(learns)
            while len(self._adapters) >= MOST_ADAPTERS:
                del self._adapters[next(iter(self._adapters))]
        self._adapters[settings] = known
        put_in_lora(backbone, known)
        try:
            yield
        finally:
            empty = {k: value.to("meta") for k, value in lora_parameters(backbone).items()}
            backbone.load_state_dict(empty, strict=False, assign=True)
            take_out_lora(backbone)


def query_dim(model: ArrCocQwen3VL) -> int:
    """Width of the embeddings that a question is heard by."""
    return int(model.backbone.config.text_config.hidden_size)


def refuse_partial(name: str, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """A swap that matches no name, or only some, would be a model that nobody trained.

    Raises:
        SwapError: a name is missing, unknown or of another shape.
    """
    missing = sorted(expected.keys() - given.keys())
    unknown = sorted(given.keys() - expected.keys())
    misshapen = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & given.keys())
        if given[key].shape != expected[key].shape
    ]
    if not (missing or unknown or misshapen):
        return
    fitting = len(expected) - len(missing) - len(misshapen)
    kinds = (("missing", missing), ("unknown here", unknown), ("of another shape", misshapen))
    wrong = "; ".join(f"{kind}: {_first(names)}" for kind, names in kinds if names)
    raise SwapError(
        f"Of the {len(expected)} weights that {name!r} should bring {fitting or 'none'} fit "
        f"({wrong}). Nothing was changed. Register it with arr_coc=, what builds the network it "
        "was trained with."
    )


def fill(
    network: nn.Module, tensors: Mapping[str, Tensor], start: str, device: torch.device
) -> None:
    """Give a network copies of those tensors whose names begin so, in the types that it has."""
    network.load_state_dict(
        {
            key: tensors[f"{start}{key}"].to(device, room.dtype, copy=True)
            for key, room in network.state_dict().items()
        },
        assign=True,
    )


def fill_adapters(backbone: nn.Module, tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Likewise adapters inside a backbone."""
    given = {
        key: tensors[f"{ADAPTED}{key}"].to(device, room.dtype, copy=True)
        for key, room in lora_parameters(backbone).items()
    }
    if given:
        backbone.load_state_dict(given, strict=False, assign=True)
        for weight in lora_parameters(backbone).values():
            weight.requires_grad_(False)


def refuse_empty(name: str, network: nn.Module) -> None:
    """What is no weight cannot come from a checkpoint.

    Raises:
        SwapError: a buffer that no state dict has is still without values.
    """
    left = [key for key, value in network.named_buffers() if value.is_meta]
    if left:
        raise SwapError(
            f"The network of {name!r} has buffers that no checkpoint holds ({_first(left)}). Make "
            "them persistent, or compute them when they are needed."
        )


def _first(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
