"""From a model's answer to the sheet about it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_arrcoc.contest import decode_answers
from lightning_arrcoc.data.sample import Source
from lightning_arrcoc.pictures.answers import Answered
from lightning_arrcoc.pictures.sheet import Explained, draw_explained
from lightning_arrcoc.relevance import Allocation, Knowing, Realization
from lightning_arrcoc.relevance.textures import Channel
from lightning_arrcoc.vlm import ArrCocQwen3VL

MAX_NEW_TOKENS = 64  # as many as `predict` lets a model answer with


def explain(
    model: ArrCocQwen3VL, image: Image.Image, question: str, truth: str | None = None
) -> Figure:
    """Ask about an image, with the model's own budget and `select`, and draw why it saw what.

    In a notebook, `%matplotlib inline` makes the figure appear.

    Args:
        model: as `ArrCocQwen3VL.from_pretrained` makes it.
        image: what to look at.
        question: what to ask.
        truth: the right answer, where it is known.

    Returns:
        The sheet of `draw_explained`; `save_figure` writes it.

    Raises:
        TypeError: `image` is no picture of PIL.
        ValueError: the model has no processor, or its textures have no table of channels.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"image is of type {type(image).__name__}; expected a picture of PIL, such as "
            "lightning_arrcoc.data.images.open_image(path) gives."
        )
    if model.processor is None:
        raise ValueError("The model has no processor to encode with; load it from_pretrained.")
    channels, image = channel_table(model), image.convert("RGB")
    encoded = model.processor([{"images": [image], "questions": [question], "answers": []}])
    device = model.backbone.device
    prompts: dict[str, Any] = {key: value.to(device) for key, value in encoded.items()}
    found: list[Realization] = []
    hook = record(model.arr_coc, found)
    try:
        output = model.generate(**prompts, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    finally:
        hook.remove()
    (answer,) = decode_answers(model, output, prompts)
    (allocation,) = output.allocation or []
    answered = Answered(image, question, answer, truth, allocation)
    (realization,) = of_each_image(found, [allocation])
    return draw_explained(Explained(answered, realization, channels, scorers_heard(model)))


class Explaining(Callback):
    """Observes: keeps what the first predicted samples found relevant, to be drawn afterwards.

    Args:
        model: whose choice is explained.
        samples: what is predicted, in this order.
        most: of how many samples to keep it.

    Attributes:
        explained: for each of these samples, one entry for each of its images.

    Raises:
        ValueError: the model's textures have no table of channels.
    """

    def __init__(self, model: ArrCocQwen3VL, samples: Source, most: int) -> None:
        self.arr_coc, self.channels = model.arr_coc, channel_table(model)
        self.scorers = scorers_heard(model)
        self.samples, self.most = samples, most
        self.explained: list[list[Explained]] = []
        self._found: list[Realization] = []
        self._hook: RemovableHandle | None = None

    def on_predict_start(self, *_: Any) -> None:
        self._hook = record(self.arr_coc, self._found)

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        if self._hook is None:
            return
        allocations = [allocation for item in outputs for allocation in item["allocations"]]
        realizations = iter(of_each_image(self._found, allocations))
        self._found.clear()
        for item in outputs[: self.most - len(self.explained)]:
            sample = self.samples[len(self.explained)]
            question = sample.turns[-1].question
            truth = item["truth"] or None  # a picture of the user's own comes without
            self.explained.append(
                [
                    Explained(
                        Answered(image, question, item["answer"], truth, allocation),
                        next(realizations),
                        self.channels,
                        self.scorers,
                    )
                    for image, allocation in zip(sample.images, item["allocations"], strict=True)
                ]
            )
        if len(self.explained) >= self.most:
            self._stop()

    def on_predict_end(self, *_: Any) -> None:
        self._stop()

    def on_exception(self, *_: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def record(arr_coc: nn.Module, found: list[Realization]) -> RemovableHandle:
    """Note on the CPU what a selector finds, until the handle is removed."""

    def note(_module: nn.Module, _inputs: tuple[Tensor, ...], realization: Realization) -> None:
        found.append(drawn(realization, slice(None)))

    return arr_coc.register_forward_hook(note)


def drawn(realization: Realization, images: slice) -> Realization:
    """What a sheet shows of some of its images, on the CPU."""
    return Realization(
        realization.textures[images].detach().cpu(),
        realization.scores[images].detach().cpu(),
        realization.tensions[images].detach().cpu(),
        realization.relevance_logit[images].detach().cpu(),
    )


def of_each_image(
    found: Sequence[Realization], allocations: Sequence[Allocation]
) -> list[Realization]:
    """Take realizations of several images apart (I = 1), in the order of the allocations.

    The model asks about the images of one size together, size by size, each in order.

    Raises:
        ValueError: what was found is not about these images.
    """
    waiting: dict[tuple[int, ...], deque[Realization]] = defaultdict(deque)
    for realization in found:
        for i in range(len(realization.tensions)):
            single = drawn(realization, slice(i, i + 1))
            waiting[tuple(single.relevance_logit.shape[1:])].append(single)
    sizes = [tuple(allocation.relevance.shape) for allocation in allocations]
    if {size: len(queue) for size, queue in waiting.items()} != {s: sizes.count(s) for s in sizes}:
        raise ValueError(
            f"{len(allocations)} images were given tokens, but ARR-COC was asked about "
            f"{sum(len(r.tensions) for r in found)}. Only its own choice can be explained, not "
            "that of another selector or of training=backbone."
        )
    return [waiting[size].popleft() for size in sizes]


def channel_table(model: ArrCocQwen3VL) -> tuple[Channel, ...]:
    """What the model's texture channels are.

    Raises:
        ValueError: its texture part does not say.
    """
    channels: tuple[Channel, ...] | None = getattr(model.arr_coc.texture, "channels", None)
    if channels is None:
        raise ValueError(
            f"{type(model.arr_coc.texture).__name__} has no table of `channels`, so they have no "
            "names to be drawn with. Give it one, as TextureGenerator has."
        )
    return channels


def scorers_heard(model: ArrCocQwen3VL) -> Sequence[str]:
    """Names of the scorers that the model's relevance is made of."""
    names: Sequence[str] = getattr(model.arr_coc.knowing, "scorers", Knowing.NAMES)
    return names
