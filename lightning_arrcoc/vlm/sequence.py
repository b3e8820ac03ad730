"""The token sequence without the visual tokens that were dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_arrcoc.relevance import Allocation
from lightning_arrcoc.vlm.chat import IGNORED_LABEL


class PrunedSequence(NamedTuple):
    """What the language model reads.

    Attributes:
        input_ids, attention_mask: ``(B, L')`` int64.
        position_ids: ``(4, B, L')``: text order without gaps, then M-RoPE's time, row and column
            as they were in the whole sequence. Text after an image keeps its distance. int64, or
            fp32 where the centre of a token of several cells lies between two.
        labels: ``(B, L')`` int64 or None.
        columns: where each token stood in the whole sequence ``(B, L')``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor | None
    columns: Tensor

    def model_inputs(self) -> dict[str, Any]:
        """Keyword arguments of the stock model."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }


def prune_sequence(
    input_ids_BL: Tensor,
    keep_BL: Tensor,
    positions_3BL: Tensor,
    labels_BL: Tensor | None,
    *,
    pad_token: int,
    padding_side: str,
) -> PrunedSequence:
    """Close the gaps that dropped tokens leave.

    Args:
        input_ids_BL: the whole sequence.
        keep_BL: False at padding and at dropped visual tokens.
        positions_3BL: M-RoPE positions of the whole sequence.
        labels_BL: next-token targets, if any. A row's first token never is one: the position
            that would predict it is padding or does not exist.
        pad_token: fills rows shorter than the longest.
        padding_side: "left" or "right".
    """
    length = int(keep_BL.sum(1).max())
    if padding_side == "left":  # a stable sort moves the dropped to the front
        columns = keep_BL.byte().argsort(dim=1, stable=True)[:, -length:]
    else:
        columns = (~keep_BL).byte().argsort(dim=1, stable=True)[:, :length]
    real = keep_BL.gather(1, columns)

    def pick(values: Tensor, fill: int) -> Tensor:
        return values.gather(1, columns).masked_fill(~real, fill)

    text = (real.long().cumsum(1) - 1).clamp(min=0)
    positions = torch.stack([pick(axis, 0) for axis in positions_3BL])
    positions = torch.cat([text[None].to(positions.dtype), positions])
    labels = None
    if labels_BL is not None:
        labels = pick(labels_BL, IGNORED_LABEL).masked_fill(real & (text == 0), IGNORED_LABEL)
    return PrunedSequence(pick(input_ids_BL, pad_token), real.long(), positions, labels, columns)


def centred(positions_3BL: Tensor, tokens_BL: Tensor, allocations: Sequence[Allocation]) -> Tensor:
    """Move the positions of tokens of several cells from the first cell to the centre.

    Args:
        positions_3BL: M-RoPE positions of the whole sequence, one a cell.
        tokens_BL: where the kept visual tokens stand.
        allocations: of all images, in the order of the sequence.
    """
    if not any(bool(allocation.levels.any()) for allocation in allocations):
        return positions_3BL
    moved = torch.cat([a.positions - a.boxes[:, :2] for a in allocations])
    positions_3BL = positions_3BL.float()
    positions_3BL[1:, tokens_BL] += moved.T
    return positions_3BL


def biased_causal_mask(attention_mask_BL: Tensor, bias_BL: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask ``(B, 1, L, L)``: causal, padding closed, every key biased."""
    length = attention_mask_BL.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=bias_BL.device).tril()
    allowed_BLL = causal & attention_mask_BL.bool()[:, None, :]
    closed = closed_entry(dtype)
    bias = bias_BL.to(dtype)[:, None, :].clamp(min=closed / 2)
    return torch.where(allowed_BLL, bias, closed)[:, None]


def closed_entry(dtype: torch.dtype) -> float:
    """What an additive mask holds where nothing may be seen: half the lowest finite number.

    A padding row, which may see nothing, then averages instead of answering NaN, also when
    autocast rounds the mask to bf16.
    """
    return torch.finfo(dtype).min / 2


def find_question(
    input_ids_BL: Tensor, attention_mask_BL: Tensor, image_token: int, ends: Sequence[int]
) -> Tensor:
    """The question's tokens, where the batch does not mark them: ``(B, L)`` bool.

    They are the text between a row's last image, behind its closing marker, and the first of the
    tokens that end a turn. A row without images, or without text there, has no question.
    """
    length = input_ids_BL.shape[1]
    column = torch.arange(length, device=input_ids_BL.device)
    real = attention_mask_BL.bool()
    visual = (input_ids_BL == image_token) & real
    last_image = torch.where(visual, column, -1).amax(1, keepdim=True)
    after = (last_image >= 0) & (column > last_image + 1) & real
    ending = after & torch.isin(input_ids_BL, input_ids_BL.new_tensor(ends))
    first_end = torch.where(ending, column, length).amin(1, keepdim=True)
    return after & (column < first_end)
