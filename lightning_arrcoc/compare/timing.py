"""Where the time of one answer goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn

from lightning_arrcoc.vlm import ArrCocQwen3VL

STAGES = ("texture", "selection", "vision", "prefill", "decode")


class TimeSplit(NamedTuple):
    """Seconds of one answer, from the processor's tensors on the device to the last token.

    Attributes:
        texture: measuring the image's channels; 0 for those who measure none.
        selection: everything else until the vision tower begins: scores, tensions, allocation, and
            the shorter sequence; making the image smaller, where that is done.
        vision: the tower, and packing its patches.
        prefill: from there to the scores of the first token.
        decode: the other tokens.
    """

    texture: float
    selection: float
    vision: float
    prefill: float
    decode: float

    @property
    def total(self) -> float:
        return sum(self)


class Split:
    """A block in which a model answers once, with marks where a stage begins.

    On a CUDA device marks stand in the stream as events: nothing waits for the device but the two
    ends. Elsewhere the clock is read, which on a CPU is the same.
    """

    def __init__(self, model: ArrCocQwen3VL) -> None:
        self.model, self.device = model, model.backbone.device
        self._marks: dict[str, Any] = {}
        self._hooks = ExitStack()

    def __enter__(self) -> Split:
        texture, tower = self.model.arr_coc.texture, self.model.backbone.model.visual
        for handle in (
            texture.register_forward_pre_hook(self._at("texture")),
            texture.register_forward_hook(self._at("measured")),
            tower.register_forward_pre_hook(self._at("vision")),
            tower.register_forward_hook(self._at("prefill")),
            self.model.backbone.register_forward_hook(self._at("decode")),
        ):
            self._hooks.callback(handle.remove)
        self._synchronize()
        self._mark("start")
        return self

    def __exit__(self, *_: object) -> None:
        self._mark("end")
        self._hooks.close()
        self._synchronize()

    def times(self) -> TimeSplit:
        """After the block."""
        texture = self._between("texture", "measured")
        return TimeSplit(
            texture,
            self._between("start", "vision") - texture,
            self._between("vision", "prefill"),
            self._between("prefill", "decode"),
            self._between("decode", "end"),
        )

    def _at(self, stage: str) -> Callable[..., None]:
        def hook(_module: nn.Module, *_: Any) -> None:
            if stage not in self._marks:  # decoding calls the backbone again and again
                self._mark(stage)

        return hook

    def _mark(self, stage: str) -> None:
        if self.device.type == "cuda":
            event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.device))
            self._marks[stage] = event
        else:
            self._marks[stage] = time.perf_counter()

    def _between(self, one: str, other: str) -> float:
        if one not in self._marks or other not in self._marks:
            return 0.0
        if self.device.type == "cuda":
            milliseconds: float = self._marks[one].elapsed_time(self._marks[other])
            return milliseconds / 1000
        seconds: float = self._marks[other] - self._marks[one]
        return seconds

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
