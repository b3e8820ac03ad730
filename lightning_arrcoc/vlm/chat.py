"""Conversations about images -> the tensors Qwen3-VL reads, with answers and questions marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

IMAGE_TOKEN = "<|image_pad|>"
VISION_END = "<|vision_end|>"
IGNORED_LABEL = -100
STAND_IN = "\N{REPLACEMENT CHARACTER}question\N{REPLACEMENT CHARACTER}"


class Conversation(TypedDict):
    """Images, then questions and answers in turn; the last answer may be missing."""

    images: Sequence[Image.Image]
    questions: Sequence[str]
    answers: Sequence[str]


class ChatProcessor:
    """Tokenizer, chat template and image processor of a Qwen3-VL, without its video part.

    transformers' own ``Qwen3VLProcessor`` wants torchvision for video; this one needs only PIL.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        image_processor: cuts images into patches in merge-block order.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, image_processor: Qwen2VLImageProcessorPil
    ) -> None:
        if tokenizer.chat_template is None:
            raise ValueError("The tokenizer has no chat template; use a Qwen3-VL-Instruct folder.")
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.merge_size = int(image_processor.merge_size)
        self._vision_end = int(tokenizer.convert_tokens_to_ids(VISION_END))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> ChatProcessor:
        """Load from a folder or hub id.

        Args:
            folder: where tokenizer and image processor are.
            min_pixels, max_pixels: of a resized image; None keeps what is stored there.

        Raises:
            ValueError: no image fits the limits.
        """
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        images = Qwen2VLImageProcessorPil.from_pretrained(folder)
        size = dict(images.size)
        if min_pixels is not None:
            size["shortest_edge"] = min_pixels
        if max_pixels is not None:
            size["longest_edge"] = max_pixels
        cell = (images.patch_size * images.merge_size) ** 2
        if not 1 <= size["shortest_edge"] <= size["longest_edge"] >= cell:
            raise ValueError(
                f"min_pixels={size['shortest_edge']}, max_pixels={size['longest_edge']}; expected "
                f"1 <= min_pixels <= max_pixels, and at least the {cell} pixels of one token."
            )
        images.size = size
        return cls(tokenizer, images)

    def save_pretrained(self, folder: str | Path) -> None:
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def __call__(
        self,
        conversations: Sequence[Conversation],
        *,
        padding_side: str = "left",
        pack: bool = False,
    ) -> dict[str, Tensor]:
        """Encode a batch.

        Args:
            conversations: with any number of images and turns.
            padding_side: "left", as generation wants it, or "right".
            pack: encode every turn as if it were the only one, all of them behind the same
                images, for `forward_packed`.

        Returns:
            ``input_ids``, ``attention_mask``, ``labels`` (answers and their end-of-turn; -100
            elsewhere) and ``query_mask`` (tokens of the question being asked: the only one, or
            the last of a prompt; several answered ones ask no single question), each ``(B, L)``
            int64 or bool; and, where there are images, ``pixel_values (patches, 1536)`` and
            ``image_grid_thw (I, 3)`` in patches. Packed also ``turns (B, L)``: the number of a
            token's turn from 1, 0 where all see it, -1 at padding; `query_mask` then marks the
            question of every turn.
        """
        patches: list[Tensor] = []
        grids: list[Tensor] = []
        rows: list[dict[str, list[int]]] = []
        for conversation in conversations:
            counts: list[int] = []
            for image in conversation["images"]:
                encoded = self.image_processor(images=[image], return_tensors="pt")
                patches.append(encoded["pixel_values"])
                grids.append(encoded["image_grid_thw"])
                counts.append(int(grids[-1].prod()) // self.merge_size**2)
            encode = self._pack if pack else self._tokenize
            rows.append(encode(conversation, counts))
        batch = pad_rows(rows, int(self.tokenizer.pad_token_id), padding_side)
        if patches:
            batch["pixel_values"] = torch.cat(patches)
            batch["image_grid_thw"] = torch.cat(grids)
        return batch

    def _pack(self, conversation: Conversation, counts: list[int]) -> dict[str, list[int]]:
        """Each turn alone, without what stands before and within the images from the second on."""
        packed: dict[str, list[int]] = {
            key: [] for key in ("input_ids", "labels", "query_mask", "turns")
        }
        pairs = zip(conversation["questions"], conversation["answers"], strict=True)
        for number, (question, answer) in enumerate(pairs, start=1):
            row = self._tokenize(
                {"images": conversation["images"], "questions": [question], "answers": [answer]},
                counts,
            )
            own = self._behind_images(row["input_ids"], len(counts))
            row["turns"] = [0] * own + [number] * (len(row["input_ids"]) - own)
            for key, values in packed.items():
                values += row[key] if number == 1 else row[key][own:]
        return packed

    def _behind_images(self, ids: list[int], images: int) -> int:
        """Index behind the marker that closes the last image; 0 where there is none."""
        closing = [place for place, token in enumerate(ids) if token == self._vision_end]
        return closing[images - 1] + 1 if images else 0

    def _tokenize(self, conversation: Conversation, counts: list[int]) -> dict[str, list[int]]:
        """Token ids of one conversation with a label and a query flag each."""
        messages: list[dict[str, Any]] = []
        answer_spans: list[tuple[int, int]] = []
        answers = list(conversation["answers"])
        text = ""
        for turn, question in enumerate(conversation["questions"]):
            images = conversation["images"] if turn == 0 else ()
            content = [{"type": "image"} for _ in images] + [{"type": "text", "text": question}]
            messages.append({"role": "user", "content": content})
            text = self._render(messages, behind=text, answering=True)
            if turn < len(answers):
                messages.append({"role": "assistant", "content": answers[turn]})
                start = len(text)
                text = self._render(messages, behind=text, answering=False)
                answer_spans.append((start, len(text.rstrip("\n"))))
        encoded = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        labels = [
            token if any(_within(offset, span) for span in answer_spans) else IGNORED_LABEL
            for token, offset in zip(ids, offsets, strict=True)
        ]
        question_span = (0, 0)
        if len(answers) < len(conversation["questions"]) or len(answers) == 1:
            question_span = self._locate_question(messages, conversation["questions"][-1])
        query = [int(_within(offset, question_span)) for offset in offsets]
        return self.expand_images({"input_ids": ids, "labels": labels, "query_mask": query}, counts)

    def _locate_question(self, messages: list[dict[str, Any]], question: str) -> tuple[int, int]:
        """Where the last question begins and ends in the rendered text.

        A stand-in is searched for, because the template may hold the question's own words.
        """
        last = max(i for i, message in enumerate(messages) if message["role"] == "user")
        content = [*messages[last]["content"][:-1], {"type": "text", "text": STAND_IN}]
        rendered = self._render([*messages[:last], {"role": "user", "content": content}])
        start = rendered.index(STAND_IN)
        return start, start + len(question)

    def _render(
        self, messages: list[dict[str, Any]], behind: str = "", answering: bool = False
    ) -> str:
        text = str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answering
            )
        )
        if not text.startswith(behind):
            raise ValueError(
                "This chat template rewrites earlier turns, so answers cannot be located for the "
                "loss. Use the template of a Qwen3-VL-Instruct model."
            )
        return text

    def expand_images(self, row: dict[str, list[int]], counts: list[int]) -> dict[str, list[int]]:
        """Repeat each image placeholder once per merged token of its image."""
        image_token = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        placeholders = [i for i, token in enumerate(row["input_ids"]) if token == image_token]
        if len(placeholders) != len(counts):
            raise ValueError(
                f"{len(placeholders)} image placeholders for {len(counts)} images. Questions must "
                f"not contain {IMAGE_TOKEN!r}."
            )
        for position, count in zip(reversed(placeholders), reversed(counts), strict=True):
            for values in row.values():
                values[position : position + 1] = [values[position]] * count
        return row


def _within(offset: tuple[int, int], span: tuple[int, int]) -> bool:
    return span[0] <= offset[0] < offset[1] <= span[1]


def pad_rows(rows: list[dict[str, list[int]]], pad_token: int, side: str) -> dict[str, Tensor]:
    """Rows of several lengths as one batch, with its `attention_mask`."""
    if side not in ("left", "right"):
        raise ValueError(f"padding_side={side!r}; choose 'left' or 'right'.")
    fill = {"labels": IGNORED_LABEL, "input_ids": pad_token, "turns": -1}  # otherwise 0
    for row in rows:
        row["attention_mask"] = [1] * len(row["input_ids"])
    length = max(len(row["input_ids"]) for row in rows)
    batch: dict[str, Tensor] = {}
    for key in rows[0]:
        padding = [[fill.get(key, 0)] * (length - len(row[key])) for row in rows]
        pairs = zip(padding, (row[key] for row in rows), strict=True)
        joined = [p + v if side == "left" else v + p for p, v in pairs]
        batch[key] = torch.tensor(joined)
    if "query_mask" in batch:
        batch["query_mask"] = batch["query_mask"].bool()
    return batch
