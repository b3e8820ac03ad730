"""What every objective makes of a batch, and the figures that several of them log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_arrcoc.relevance.balancing import TENSIONS
from lightning_arrcoc.vlm import ArrCocOutput, ArrCocQwen3VL
from lightning_arrcoc.vlm.chat import IGNORED_LABEL
from lightning_arrcoc.vlm.packing import turns_of


class Read(NamedTuple):
    """How much the backbone read in the pass that was learned from.

    Attributes:
        rows, length: of its sequences; padding counts, as it is computed.
        images: how many, one that several turns saw so many times.
        patches: that entered the vision tower.
        visual: tokens that all of these images have.
        kept: of these, what the language model read.
    """

    rows: int
    length: int
    images: int
    patches: int
    visual: int
    kept: int


class Lesson(NamedTuple):
    """What a batch teaches.

    Attributes:
        loss: scalar, nats.
        logs: further figures by name, detached scalars.
        read: None where it was the batch as it is, with all tokens.
    """

    loss: Tensor
    logs: dict[str, Tensor]
    read: Read | None = None


class Objective(Protocol):
    """Anything that makes a loss of a model and a batch.

    It may have `state_dict` and `load_state_dict`, for what a resumed run must know, and
    `reaches_lora`: True where its gradient reaches adapters inside the backbone.
    """

    def __call__(self, model: ArrCocQwen3VL, inputs: dict[str, Any], progress: float) -> Lesson:
        """Look at one batch.

        Args:
            model: whose parts learn.
            inputs: as the data module's batch holds them.
            progress: share of the run that lies behind, 0 to 1.
        """


def packed_turns(model: ArrCocQwen3VL, inputs: dict[str, Any]) -> dict[str, Any]:
    """The batch as `forward_packed` takes it, and its questions."""
    packed = {key: value for key, value in inputs.items() if key != "attention_mask"}
    if "turns" not in packed:
        packed["turns"] = turns_of(
            inputs["input_ids"], inputs["attention_mask"], model.backbone.config.image_token_id
        )
    return packed


def read_of(model: ArrCocQwen3VL, output: ArrCocOutput, *, chosen: bool) -> Read:
    """What a pass read, by shapes alone: nothing is waited for.

    Args:
        model: whose output it is.
        output: with an allocation for each image.
        chosen: whether the tokens it names were read, or all.
    """
    allocations = output.allocation or []
    visual = sum(allocation.relevance.numel() for allocation in allocations)
    kept = sum(len(allocation.levels) for allocation in allocations) if chosen else visual
    encoded = kept if model.select == "before_vision" else visual
    rows, length = output.logits.shape[:2]
    return Read(rows, length, len(allocations), encoded * patches_a_token(model), visual, kept)


def patches_a_token(model: ArrCocQwen3VL) -> int:
    """Patches that the vision tower merges into one token."""
    return int(model.backbone.config.vision_config.spatial_merge_size) ** 2


def nothing_to_learn(model: ArrCocQwen3VL) -> Tensor:
    """A loss of 0 on all that is trained: other processes wait for this one's gradients."""
    trained = [p.float().sum() for p in model.parameters() if p.requires_grad]
    return 0.0 * torch.stack(trained).sum()


def mean_tensions(tensions: Sequence[Tensor]) -> dict[str, Tensor]:
    """The mean of each tension, to be logged."""
    mean = torch.stack(list(tensions)).detach().mean(0)
    return {f"tension_{name}": value for name, value in zip(TENSIONS, mean, strict=True)}


def accuracy(logits_BLV: Tensor, labels_BL: Tensor, end_tokens: Sequence[int]) -> Tensor:
    """Share of answer tokens guessed right; the end of the turn, which always follows, is none."""
    targets = labels_BL[:, 1:]
    ends = torch.isin(targets, targets.new_tensor(list(end_tokens)))
    asked = (targets != IGNORED_LABEL) & ~ends
    right = logits_BLV[:, :-1].argmax(-1) == targets
    share: Tensor = right[asked].float().mean()
    return share
