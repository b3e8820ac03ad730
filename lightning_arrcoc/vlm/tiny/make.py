"""Lays down the embedded backbone's folder: config, tokenizer, image processor, fresh weights.

``python -m lightning_arrcoc.vlm.tiny.make FOLDER [--weights CHECKPOINT]``
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lightning_arrcoc.data.digit_canvas import COLOURS
from lightning_arrcoc.data.digit_families import CORNERS
from lightning_arrcoc.vlm.chat import ChatProcessor

END_OF_TEXT, END_OF_TURN = "<|endoftext|>", "<|im_end|>"
SPECIAL_TOKENS = (  # Qwen's names, in Qwen's order
    END_OF_TEXT,
    "<|im_start|>",
    END_OF_TURN,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}{{- message.content -}}{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'text' -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
VOCABULARY = 400


def make_tokenizer() -> Qwen2Tokenizer:
    """Byte-level BPE in Qwen's form; the words of the digit questions become single tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        _corpus(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    learned = json.loads(bpe.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        unk_token=END_OF_TEXT,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[t for t in SPECIAL_TOKENS if t not in (END_OF_TEXT, END_OF_TURN)],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )


def _corpus() -> list[str]:
    lines = [
        "user\n",
        "assistant\n",
        "yes",
        "no",
        "How many digits are there?",
        "Describe the image.",
    ]
    for colour in COLOURS:
        lines.append(f"Which digit is {colour}?")
        lines.append(f"{colour}1 {colour}2")
        lines.append(f"Where is the {colour} digit?")
        lines.append(f"Is the {colour} digit greater than the {colour} one?")
    for corner in CORNERS:
        lines += [f"Which digit is nearest the {corner} corner?", corner]
    return lines * 10


def make_config(tokenizer: Qwen2Tokenizer) -> Qwen3VLConfig:
    """A real Qwen3-VL, small: every part of the large ones is there."""

    def token(text: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(text))

    width = 96
    return Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 8192,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5000000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "initializer_range": 0.1,  # at this width 0.02 never starts to learn
            "pad_token_id": token(END_OF_TEXT),
            "eos_token_id": token(END_OF_TURN),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_heads": 2,
            "out_hidden_size": width,
            "num_position_embeddings": 8 * 8,
            "deepstack_visual_indexes": [1, 2],
            "patch_size": 16,
            "initializer_range": 0.1,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def make_backbone(folder: Path, *, seed: int = 0, max_shard_size: str = "50GB") -> None:
    """Write everything a Qwen3-VL folder holds, with random weights."""
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(make_config(tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    images = Qwen2VLImageProcessorPil(
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 64 * 64, "longest_edge": 1024 * 1024},
        image_mean=[0.15] * 3,  # of the digit canvases: a constant offset would drown the rest
        image_std=[0.5] * 3,
    )
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    ChatProcessor(tokenizer, images).save_pretrained(folder)


def store_weights(folder: Path, checkpoint: Path) -> None:
    """Put the backbone that a run trained into a folder made by `make_backbone`, in bf16.

    Raises:
        RuntimeError: the checkpoint holds another architecture.
    """
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, use_safetensors=True)
    model.load_state_dict(
        {name.removeprefix("backbone."): value for name, value in read(checkpoint).items()}
    )
    model.to(torch.bfloat16).save_pretrained(folder)


def read(checkpoint: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's weights."""
    saved: dict[str, torch.Tensor] = torch.load(
        checkpoint, map_location="cpu", weights_only=True, mmap=True
    )["state_dict"]
    return saved


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, help="a checkpoint of experiment=tiny_base")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:  # what lies in the folder stays until all is well
        made = Path(place) / "made"
        make_backbone(made)
        if arguments.weights:
            store_weights(made, arguments.weights)
        shutil.copytree(made, arguments.folder, dirs_exist_ok=True)
