"""What every objective makes of a batch, and the figures that several of them log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_arrcoc.objectives.reading import Read
from lightning_arrcoc.relevance.balancing import TENSIONS
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.chat import IGNORED_LABEL
from lightning_arrcoc.vlm.packing import turns_of


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

    It may have `state_dict` and `load_state_dict`, for what a resumed run must know;
    `reaches_lora`: True where its gradient reaches adapters inside the backbone; and `mean_over`:
    "questions" where its loss is a mean over these and not over answer tokens.
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
