"""transformers' outputs with what was kept beside them."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput
from transformers.modeling_outputs import CausalLMOutputWithPast

from lightning_arrcoc.relevance import Allocation, Previous


@dataclass
class ArrCocOutput(CausalLMOutputWithPast):
    """transformers' output with what was kept beside it.

    Attributes:
        logits: ``(B, L', vocabulary)`` over the pruned sequence.
        allocation: one for each image; in the soft phase what a hard choice would have kept.
        relevance_logits: log-odds of the relevance of each image's cells ``(H, W)``, fp32.
        labels: the targets that belong to `logits`, ``(B, L')``, where labels were given.
        seen: one for each image, for `previous` of the call about the next frame or question;
            None for an image where the textures remember nothing.
    """

    allocation: list[Allocation] | None = None
    relevance_logits: list[Tensor] | None = None
    labels: Tensor | None = None
    seen: list[Previous | None] | None = None


@dataclass
class ArrCocGeneration(GenerateBeamDecoderOnlyOutput):
    """transformers' output of generate() with what was kept beside it.

    Attributes:
        sequences: the prompt as it was given, dropped visual tokens included, and the answer, so
            that code which cuts off the prompt's length goes on working.
        allocation: one for each image.
        seen: as in `ArrCocOutput`.
    """

    allocation: list[Allocation] | None = None
    seen: list[Previous | None] | None = None


GENERATED = {field.name for field in fields(GenerateBeamDecoderOnlyOutput)}


def with_choice(
    stock: CausalLMOutputWithPast,
    allocation: list[Allocation],
    relevance_logits: list[Tensor],
    labels: Tensor | None,
    seen: list[Previous | None],
) -> ArrCocOutput:
    """What every supported transformers returns, with the choice beside it."""
    return ArrCocOutput(
        loss=stock.loss,
        logits=stock.logits,
        past_key_values=stock.past_key_values,
        hidden_states=stock.hidden_states,
        attentions=stock.attentions,
        allocation=allocation,
        relevance_logits=relevance_logits,
        labels=labels,
        seen=seen,
    )
