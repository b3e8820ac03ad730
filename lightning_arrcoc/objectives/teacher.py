"""What the frozen backbone answers when it sees every token, worked out once for each sample."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_arrcoc.objectives.full_tokens import answer_fully
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.blocks import is_sharded
from lightning_arrcoc.vlm.chat import IGNORED_LABEL
from lightning_arrcoc.vlm.identity import backbone_identity
from lightning_arrcoc.vlm.lora import base_alone, base_parameters
from lightning_arrcoc.vlm.rows import images_of_rows, take_rows

MIB = 2**20


class Expected(NamedTuple):
    """Distributions over the vocabulary at answer tokens, the unlikely ones taken together.

    Attributes:
        tokens: the likeliest, ``(A, K)`` int32.
        log_shares: theirs ``(A, K)``, fp32, nats.
        log_rest: what all others share ``(A,)``, fp32, nats; -inf where there are none.
    """

    tokens: Tensor
    log_shares: Tensor
    log_rest: Tensor

    @classmethod
    def of(cls, logits_AV: Tensor, top: int) -> Expected:
        """Keep the `top` likeliest of each distribution."""
        log_shares_AV = logits_AV.float().log_softmax(-1)
        best = log_shares_AV.topk(min(top, logits_AV.shape[-1]))
        others_AV = log_shares_AV.scatter(-1, best.indices, -torch.inf)
        return cls(best.indices.int(), best.values, others_AV.logsumexp(-1))

    def divergence(self, logits_AV: Tensor) -> Tensor:
        """Kullback-Leibler divergence of a student from these, mean over answer tokens.

        Args:
            logits_AV: the student's at the same answer tokens.

        Returns:
            Scalar, nats. With fewer tokens kept than there are it is that of the distributions in
            which the others are one: never more than the whole, and 0 where both agree.
        """
        tokens = self.tokens.long()
        student_AV = logits_AV.float().log_softmax(-1)
        shares, rest = self.log_shares.exp(), self.log_rest.exp()
        entropy = torch.special.entr(shares).sum(-1) + torch.special.entr(rest)
        crossed = -(shares * student_AV.gather(-1, tokens)).sum(-1)
        if tokens.shape[-1] < logits_AV.shape[-1]:
            others_AV = student_AV.scatter(-1, tokens, -torch.inf)
            crossed = crossed - rest * others_AV.logsumexp(-1)
        result: Tensor = (crossed - entropy).mean()
        return result

    @property
    def size_bytes(self) -> int:
        """Memory it takes."""
        return sum(part.numel() * part.element_size() for part in self)


class Teacher:
    """Remembers, for each sample, what the frozen backbone answers from all tokens.

    A sample is known by its content: the sha256 of its tokens, labels, pixels and image sizes
    and of the backbone's weights. Nothing is stored in checkpoints: a resumed run asks once more,
    beside other neighbours, so that from the second visit on it may differ by rounding from a run
    that went on; with `cache_mib=0` it does not.
    Each process remembers what it saw; where samples move between processes, their first visit to
    each is a full pass. Nothing is remembered of a backbone whose blocks are sharded: all processes
    have to ask it at the same time, whatever each of them knows.

    Args:
        top: likeliest tokens remembered at each answer token, 8 bytes each. All others count as
            one, whose share is remembered as well.
        cache_mib: memory on the CPU; what was not used for longest is forgotten. 0 remembers
            nothing.

    Attributes:
        full_passes: samples that had to be answered from all tokens.

    Raises:
        ValueError: `top` is below one, or `cache_mib` negative.

    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", NIPS
    workshop 2014, section 2. Departures: temperature 1; unlikely tokens are taken together.
    """

    def __init__(self, top: int = 64, cache_mib: float = 256.0) -> None:
        if top < 1:
            raise ValueError(f"top={top}; expected 1 or more.")
        if not cache_mib >= 0:
            raise ValueError(f"cache_mib={cache_mib}; expected 0 or more.")
        self.top, self.cache_mib = top, cache_mib
        self.full_passes = 0
        self._known: OrderedDict[str, Expected] = OrderedDict()
        self._bytes = 0

    def __call__(self, model: ArrCocQwen3VL, inputs: Mapping[str, Any]) -> Expected:
        """What to expect at a batch's answer tokens, in the order of rows and columns.

        Args:
            model: its backbone is asked, without adapters.
            inputs: a batch with labels; packed turns are answered together.
        """
        if is_sharded(model.backbone):
            return joined(self._ask(model, inputs), inputs["input_ids"].device)
        keys = content_keys(model, inputs)
        found: dict[str, Expected | None] = {key: self._recall(key) for key in keys}
        rows = {key: row for row, key in enumerate(keys) if found[key] is None}
        if rows:
            missing = inputs
            if len(rows) < len(keys):
                missing = take_rows(model.backbone, inputs, list(rows.values()))
            for key, asked in zip(rows, self._ask(model, missing), strict=True):
                found[key] = asked
                self._remember(key, asked)
        parts = [expected for key in keys if (expected := found[key]) is not None]
        return joined(parts, inputs["input_ids"].device)

    @torch.no_grad()
    def _ask(self, model: ArrCocQwen3VL, inputs: Mapping[str, Any]) -> list[Expected]:
        """One for each row, on the CPU."""
        with base_alone(model.backbone):
            answer = answer_fully(model, inputs)
        counts = (answer.labels[:, 1:] != IGNORED_LABEL).sum(1).tolist()
        expected = Expected.of(at_answers(answer.logits, answer.labels), self.top)
        self.full_passes += len(counts)
        columns = (torch.split(part.cpu(), counts) for part in expected)
        return [Expected(*(part.clone() for part in row)) for row in zip(*columns, strict=True)]

    def _recall(self, key: str) -> Expected | None:
        if key in self._known:
            self._known.move_to_end(key)
        return self._known.get(key)

    def _remember(self, key: str, expected: Expected) -> None:
        self._known[key] = expected
        self._bytes += expected.size_bytes
        while self._bytes > self.cache_mib * MIB:
            _, forgotten = self._known.popitem(last=False)
            self._bytes -= forgotten.size_bytes


def joined(parts: Sequence[Expected], device: torch.device) -> Expected:
    """One after the other."""
    return Expected(*(torch.cat(part).to(device) for part in zip(*parts, strict=True)))


def at_answers(logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """Logits ``(A, V)`` where answer tokens are predicted, row by row."""
    return logits_BLV[:, :-1][labels_BL[:, 1:] != IGNORED_LABEL]


def checked_weight(weight: float) -> float:
    """The weight itself.

    Raises:
        ValueError: it is negative or no number.
    """
    if not weight >= 0:
        raise ValueError(f"teacher_weight={weight}; expected 0 or more.")
    return weight


def content_keys(model: ArrCocQwen3VL, inputs: Mapping[str, Any]) -> list[str]:
    """A sha256 of everything that a row's full answer depends on; padding and neighbours do not."""
    weights = str(backbone_identity(model.backbone)["weights_sha256"])
    # That looks at a few values of each parameter; torch counts changes of any, made in place, in
    # what is private by name and described in its notes on autograd.
    weights += str(sum(p._version for p in base_parameters(model.backbone).values()))
    real_BL = inputs["attention_mask"].bool().cpu()
    texts = [inputs[key].cpu() for key in ("input_ids", "labels", "turns") if key in inputs]
    images = images_of_rows(model.backbone, inputs)
    pictures: list[Tensor] = []
    if inputs.get("pixel_values") is not None:
        grids = inputs["image_grid_thw"].cpu()
        pictures = list(torch.split(inputs["pixel_values"].cpu(), grids.prod(-1).tolist()))
    keys = []
    for row, real_L in enumerate(real_BL):
        digest = hashlib.sha256(weights.encode())
        for values_L in (text_BL[row][real_L] for text_BL in texts):
            digest.update(_plain(values_L))
        for image in images[row]:
            digest.update(_plain(grids[image]))
            digest.update(_plain(pictures[image]))
        keys.append(digest.hexdigest())
    return keys


def _plain(values: Tensor) -> bytes:
    """Type, shape and content."""
    content = values.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return f"{values.dtype}{tuple(values.shape)}".encode() + content
