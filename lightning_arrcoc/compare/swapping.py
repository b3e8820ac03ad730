"""Weights into a model and out of it again, all of them or none."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from lightning_arrcoc.compare.blueprint import Builder, LoraSettings
from lightning_arrcoc.compare.errors import SwapError
from lightning_arrcoc.compare.reading import ADAPTED, OWN, Weights
from lightning_arrcoc.compare.rooms import Room, network_without_weights, refuse_partial
from lightning_arrcoc.relevance import RelevanceRealizer
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.lora import Adapters, add_lora, lora_parameters

MOST_KINDS = 8  # Chosen by us: without weights they take next to nothing, making one 20 to 200 ms
Key = TypeVar("Key")
Made = TypeVar("Made")


class Swapper:
    """Puts small weights into one model. Its backbone is shared by all and never copied.

    There is a network for each architecture and a set of adapters for each settings of them; they
    have weights only while they are in the model. Not for several threads at once.
    """

    def __init__(self, model: ArrCocQwen3VL) -> None:
        self.model = model
        self._networks: OrderedDict[Builder, tuple[RelevanceRealizer, Room]] = OrderedDict()
        self._adapters: OrderedDict[LoraSettings, tuple[Adapters, Room]] = OrderedDict()

    @contextmanager
    def swapped(self, name: str, weights: Weights) -> Iterator[None]:
        """Inside, the model has these weights; before and after, what it had, bit for bit.

        Nothing is written into the network that waits outside meanwhile.

        Raises:
            SwapError: not all names and shapes fit. Nothing was changed.
        """
        model = self.model
        width = int(model.backbone.config.text_config.hidden_size)
        network, room = _kept(
            self._networks,
            weights.build,
            lambda: network_without_weights(name, weights.build, width, OWN),
        )
        adapters, adapted = self._adapters_for(name, weights.lora)
        expected = room.empty | (adapted.empty if adapted else {})
        refuse_partial(name, weights.tensors, expected)
        previous, select, budget = model.arr_coc, model.select, model.budget
        device = model.backbone.device
        try:
            room.fill(weights.tensors, device)
            if adapters and adapted:
                adapted.fill(weights.tensors, device)
                adapters.put_in()
            network.allocator.num_positions = budget
            model.arr_coc = network
            yield
        finally:
            model.arr_coc, model.select = previous, select
            if adapters and adapted:
                adapters.take_out()
                adapted.clear()
            room.clear()

    def _adapters_for(
        self, name: str, settings: LoraSettings | None
    ) -> tuple[Adapters, Room] | tuple[None, None]:
        if settings is None:
            return None, None
        try:
            return _kept(self._adapters, settings, lambda: self._new_adapters(settings))
        except ValueError as error:
            raise SwapError(f"The adapters of {name!r} have no place here: {error}") from error

    def _new_adapters(self, settings: LoraSettings) -> tuple[Adapters, Room]:
        """Adapters that were in the backbone once, and are out of it again."""
        backbone = self.model.backbone
        learning = [(weight, weight.requires_grad) for weight in backbone.parameters()]
        try:
            with torch.random.fork_rng(devices=[]):
                add_lora(backbone, **settings._asdict())
            backbone.eval()
            room = Room(backbone, lora_parameters(backbone), ADAPTED)
            room.clear()
        finally:  # peft may fail half-way
            adapters = Adapters(backbone)
            adapters.take_out()
            for weight, learns in learning:  # peft freezes them
                weight.requires_grad_(learns)
        return adapters, room


def _kept(known: OrderedDict[Key, Made], key: Key, make: Callable[[], Made]) -> Made:
    """What was made for a key before, or now; of many the last used stay."""
    if key not in known:
        known[key] = make()
        while len(known) > MOST_KINDS:
            known.popitem(last=False)
    known.move_to_end(key)
    return known[key]
