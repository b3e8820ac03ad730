"""Stock Qwen3-VL that spends visual tokens where they matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from lightning_arrcoc.relevance import (
    CELL_PX,
    Allocation,
    Previous,
    RelevanceRealizer,
    Selector,
)
from lightning_arrcoc.relevance.allocation import check_budget
from lightning_arrcoc.vlm.blocks import is_sharded
from lightning_arrcoc.vlm.chat import ChatProcessor
from lightning_arrcoc.vlm.covering import cell_counts, covered_cells
from lightning_arrcoc.vlm.loading import refuse_flash, require_transformers
from lightning_arrcoc.vlm.outputs import GENERATED, ArrCocGeneration, ArrCocOutput, with_choice
from lightning_arrcoc.vlm.packing import PADDING
from lightning_arrcoc.vlm.patches import PixelScale
from lightning_arrcoc.vlm.pretrained import Pretrained, Select
from lightning_arrcoc.vlm.selection import (
    Asked,
    Selection,
    VisualBatch,
    ask_turns,
    end_tokens,
    select_tokens,
)
from lightning_arrcoc.vlm.sequence import (
    PrunedSequence,
    biased_causal_mask,
    centred,
    prune_sequence,
)
from lightning_arrcoc.vlm.vision import encode_after, encode_all, encode_before


class ArrCocQwen3VL(Pretrained):
    """A Qwen3-VL and the small network that chooses its visual tokens.

    The backbone is the stock model, neither subclassed nor patched. With `budget=1.0` the output
    equals the stock model's bit for bit, whichever `select`.

    Args:
        backbone: the stock model.
        arr_coc: finds relevance and allocates tokens.
        select: "before_vision" encodes only the kept cells; "after_vision" encodes all and
            keeps some for the language model.
        budget: tokens a sample as an int, or a share as a float in (0, 1].
        image_mean, image_std: of the image processor, to see the pixels as they were.

    Attributes:
        processor: encodes conversations for this model; None where it was built from parts.

    Raises:
        ImportError: transformers is too old.
        ValueError: a bad `select` or `budget`, or tokens that do not cover 32 x 32 pixels.
    """

    def __init__(
        self,
        backbone: Qwen3VLForConditionalGeneration,
        arr_coc: RelevanceRealizer,
        *,
        select: Select = "before_vision",
        budget: int | float = 0.1,
        image_mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        image_std: tuple[float, ...] = (0.5, 0.5, 0.5),
        processor: ChatProcessor | None = None,
    ) -> None:
        require_transformers()
        if select not in ("before_vision", "after_vision"):
            raise ValueError(f"select={select!r}; choose 'before_vision' or 'after_vision'.")
        vision = backbone.config.vision_config
        if vision.patch_size * vision.spatial_merge_size != CELL_PX:
            raise ValueError(
                f"A token of this backbone covers {vision.patch_size * vision.spatial_merge_size} "
                f"px; relevance is measured in cells of {CELL_PX} px, as Qwen3-VL has them."
            )
        super().__init__()
        self.backbone = backbone
        self.arr_coc = arr_coc
        self.select = select
        self.budget = budget
        self.processor = processor
        self.image_mean, self.image_std = tuple(image_mean), tuple(image_std)

    @property
    def budget(self) -> int | float:
        """Tokens a sample, or a share of them; held by the allocator."""
        return self.arr_coc.allocator.num_positions

    @budget.setter
    def budget(self, budget: int | float) -> None:
        self.arr_coc.allocator.num_positions = check_budget(budget)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        labels: Tensor | None = None,
        query_mask: Tensor | None = None,
        textures: list[Tensor] | None = None,
        previous: Sequence[Previous | None] | None = None,
        budget: int | float | None = None,
        selector: Selector | None = None,
        soft_sharpness: float | None = None,
        straight_through: bool = False,
        mm_token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> ArrCocOutput:
        """Answer from the allocated tokens only.

        Args:
            input_ids, attention_mask, pixel_values, image_grid_thw: as a Qwen3-VL processor
                returns them; its `mm_token_type_ids` is accepted and not needed.
            labels: next-token targets ``(B, L)``, -100 where there is none.
            query_mask: True at the question's tokens ``(B, L)``; None takes the text after the
                last image.
            textures: ``(C, H, W)`` for each image, instead of measuring it.
            previous: `seen` of the output about the frame before or about the question before, for
                images of the same size; None for an image that is new. Only textures with motion,
                previous_saliency or previous_relevance take it, and only a model trained with it
                has learned what it means.
            budget: replaces the model's own for this call.
            selector: chooses in place of `arr_coc`.
            soft_sharpness: train softly: keep every token and add
                ``logsigmoid(soft_sharpness * relevance logit)`` to the attention towards it.
            straight_through: train through the hard choice: kept features are scaled by
                ``1 + (relevance - relevance.detach())``.
            **kwargs: go to the stock model.

        Raises:
            TypeError: `previous` holds something else.
            ValueError: video, packed turns, images that do not match the text, a budget beyond
                the cells, `previous` that does not match the images or has no texture channel, or
                `soft_sharpness` together with flash attention.
        """
        _refuse_video(kwargs)
        if "turns" in kwargs:
            raise ValueError(
                "The batch holds packed turns (pack_turns=true), but each question chooses tokens "
                "of its own. Ask them one by one (pack_turns=false), or use ask_turns."
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if pixel_values is None or image_grid_thw is None:
            self._refuse_lost_images(input_ids, attention_mask, pixel_values, image_grid_thw)
            plain = self.backbone(
                input_ids=input_ids, attention_mask=attention_mask, labels=labels, **kwargs
            )
            return with_choice(plain, [], [], labels, [])
        batch = VisualBatch(
            input_ids, attention_mask, pixel_values, image_grid_thw, query_mask, textures, previous
        )
        chosen = self._choose(batch, selector, budget)
        if soft_sharpness is None:
            sequence = self._prune(batch, labels, chosen)
            inputs = sequence.model_inputs() | self._features(batch, chosen, straight_through)
        else:
            sequence = self._prune(batch, labels)
            inputs = sequence.model_inputs() | self._all_features(batch)
            inputs["attention_mask"] = self._soft_mask(sequence, chosen, soft_sharpness)
        output = self.backbone(**inputs, labels=sequence.labels, **kwargs)
        return with_choice(
            output, chosen.allocations, chosen.relevance_logits, sequence.labels, chosen.seen
        )

    def ask_turns(
        self,
        *,
        input_ids: Tensor,
        turns: Tensor,
        query_mask: Tensor,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
        textures: list[Tensor] | None = None,
        previous: Sequence[Previous | None] | None = None,
        **kwargs: Any,
    ) -> list[Asked]:
        """What each packed turn finds relevant, without an answer; see `selection.ask_turns`."""
        real = (turns != PADDING).long()
        batch = VisualBatch(
            input_ids, real, pixel_values, image_grid_thw, query_mask, textures, previous
        )
        return ask_turns(self.backbone, self.arr_coc, batch, turns, self.pixel_scale)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        query_mask: Tensor | None = None,
        textures: list[Tensor] | None = None,
        previous: Sequence[Previous | None] | None = None,
        budget: int | float | None = None,
        selector: Selector | None = None,
        labels: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> ArrCocGeneration:
        """Generate from the allocated tokens only.

        Args:
            input_ids: prompts padded on the left ``(B, L)``.
            labels: ignored, so that a training batch can be passed as it is.
            **kwargs: transformers' generation options; the others are as for `forward`.

        Raises:
            ValueError: prompts padded on the right, or as for `forward`.
        """
        _refuse_video(kwargs)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if _padding_side(attention_mask) == "right":
            raise ValueError("Prompts are padded on the right; pad on the left to generate.")
        kwargs["return_dict_in_generate"] = True
        if is_sharded(self.backbone):  # whoever is done goes on until all are
            kwargs["synced_gpus"] = True
        _count_new_tokens(kwargs, input_ids.shape[1])
        allocations: list[Allocation] = []
        seen: list[Previous | None] = []
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if pixel_values is not None and image_grid_thw is not None:
            batch = VisualBatch(
                input_ids, attention_mask, pixel_values, image_grid_thw, query_mask, textures,
                previous,
            )  # fmt: skip
            chosen = self._choose(batch, selector, budget)
            allocations, seen = chosen.allocations, chosen.seen
            inputs = self._prune(batch, None, chosen).model_inputs()
            inputs |= self._features(batch, chosen, straight_through=False)
        else:
            self._refuse_lost_images(input_ids, attention_mask, pixel_values, image_grid_thw)
        output = self.backbone.generate(**inputs, **kwargs)
        answers = output.sequences[:, inputs["input_ids"].shape[1] :]
        prompts = input_ids.repeat_interleave(len(answers) // len(input_ids), dim=0)
        output["sequences"] = torch.cat([prompts, answers], dim=1)
        known = {key: value for key, value in output.items() if key in GENERATED}
        return ArrCocGeneration(**known, allocation=allocations, seen=seen)

    @property
    def end_tokens(self) -> list[int]:
        """Tokens that end a turn."""
        return end_tokens(self.backbone)

    @property
    def _visual(self) -> Qwen3VLVisionModel:
        return self.backbone.model.visual

    @property
    def pixel_scale(self) -> PixelScale:
        """How the image processor normalised."""
        device = self.backbone.device
        return PixelScale(
            torch.tensor(self.image_mean, device=device),
            torch.tensor(self.image_std, device=device),
        )

    def _choose(
        self, batch: VisualBatch, selector: Selector | None, budget: int | float | None
    ) -> Selection:
        return select_tokens(
            self.backbone, selector or self.arr_coc, batch, self.pixel_scale, budget
        )

    def _features(
        self, batch: VisualBatch, chosen: Selection, straight_through: bool
    ) -> dict[str, Any]:
        """Features of the kept tokens, as a keyword argument of the stock model."""
        encode = encode_before if self.select == "before_vision" else encode_after
        tokens = encode(self._visual, batch.patches, batch.grid_thw, chosen.allocations)
        if straight_through:
            merge = self._visual.spatial_merge_size
            covered = covered_cells(batch.grid_thw, merge, chosen.allocations)
            relevance_N = torch.cat([x.sigmoid().flatten() for x in chosen.relevance_logits])
            gate = covered.mean(relevance_N[:, None])[:, 0]
            tokens = tokens.gated(1 + (gate - gate.detach()))  # exactly one, with a gradient
        counts = [len(allocation.levels) for allocation in chosen.allocations]
        return {"mm_encoder_outputs": tokens.as_encoder_output(counts)}

    def _all_features(self, batch: VisualBatch) -> dict[str, Any]:
        """Features of every token, likewise."""
        tokens = encode_all(self._visual, batch.patches, batch.grid_thw)
        counts = cell_counts(batch.grid_thw, self._visual.spatial_merge_size)
        return {"mm_encoder_outputs": tokens.as_encoder_output(counts)}

    def _prune(
        self, batch: VisualBatch, labels: Tensor | None, chosen: Selection | None = None
    ) -> PrunedSequence:
        """The sequence with the chosen tokens; with all of them where nothing was chosen."""
        visual = (batch.input_ids == self.backbone.config.image_token_id) & (
            batch.attention_mask.bool()
        )
        positions_3BL, _ = self.backbone.model.get_rope_index(
            batch.input_ids,
            mm_token_type_ids=visual.int(),
            image_grid_thw=batch.grid_thw,
            attention_mask=batch.attention_mask,
        )
        keep_BL = batch.attention_mask.bool()
        if chosen is not None:
            keep_BL = chosen.keep_BL
            positions_3BL = centred(positions_3BL, keep_BL & visual, chosen.allocations)
        return prune_sequence(
            batch.input_ids,
            keep_BL,
            positions_3BL,
            labels,
            pad_token=self.backbone.config.text_config.pad_token_id or 0,
            padding_side=_padding_side(batch.attention_mask),
        )

    def _refuse_lost_images(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None,
        image_grid_thw: Tensor | None,
    ) -> None:
        """The stock model would answer such a batch without having seen an image."""
        if (pixel_values is None) != (image_grid_thw is None):
            raise ValueError("pixel_values and image_grid_thw belong together; one is missing.")
        visual = (input_ids == self.backbone.config.image_token_id) & attention_mask.bool()
        if bool(visual.any()):
            raise ValueError(
                f"input_ids hold {int(visual.sum())} image tokens, but no pixel_values were "
                "given. Encode text and images with one processor call."
            )

    def _soft_mask(self, sequence: PrunedSequence, chosen: Selection, sharpness: float) -> Tensor:
        refuse_flash(self.backbone, "The soft phase adds a bias to attention")
        logits = torch.cat([x.flatten() for x in chosen.relevance_logits])
        bias_BL = logits.new_zeros(chosen.visual_BL.shape)
        bias_BL = bias_BL.masked_scatter(chosen.visual_BL, F.logsigmoid(sharpness * logits))
        dtype = self.backbone.get_input_embeddings().weight.dtype
        return biased_causal_mask(
            sequence.attention_mask, bias_BL.gather(1, sequence.columns), dtype
        )


def _padding_side(attention_mask_BL: Tensor) -> str:
    return "left" if bool(attention_mask_BL[:, -1].all()) else "right"


def _count_new_tokens(kwargs: dict[str, Any], prompt: int) -> None:
    """Lengths that count the prompt mean the prompt that was given, not what is left of it."""
    for whole, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if kwargs.get(whole) is None:
            continue
        length = kwargs.pop(whole)
        if whole == "max_length" and length <= prompt:
            raise ValueError(
                f"max_length={length}, but the prompt has {prompt} tokens. Raise it, or pass "
                "max_new_tokens."
            )
        kwargs.setdefault(new, max(0, length - prompt))


def _refuse_video(kwargs: dict[str, Any]) -> None:
    if any(kwargs.get(key) is not None for key in ("pixel_values_videos", "video_grid_thw")):
        raise ValueError("Video is not supported yet; pass single frames as images.")
