"""Which backbone a checkpoint was trained on, without storing that backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from transformers import Qwen3VLForConditionalGeneration

from lightning_arrcoc.vlm.lora import base_parameters

_REMEMBERED: WeakKeyDictionary[Qwen3VLForConditionalGeneration, dict[str, str | int]] = (
    WeakKeyDictionary()
)
SAMPLED_VALUES = 64  # of each parameter; enough to tell two trainings of one architecture apart


def backbone_identity(backbone: Qwen3VLForConditionalGeneration) -> dict[str, str | int]:
    """As `present_identity`, or as it was remembered."""
    return _REMEMBERED.get(backbone) or present_identity(backbone)


def present_identity(backbone: Qwen3VLForConditionalGeneration) -> dict[str, str | int]:
    """Architecture and a fingerprint of the weights as they are now, as plain values.

    The fingerprint is a sha256 over every parameter's name, shape and first values in fp32;
    adapters inside the backbone are none of its own.
    """
    config = backbone.config
    digest = hashlib.sha256()
    for name, parameter in sorted(base_parameters(backbone).items()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        first = parameter.detach().flatten()[:SAMPLED_VALUES].to("cpu", torch.float32)
        digest.update(first.numpy().tobytes())
    return {
        "name": str(config.name_or_path),
        "model_type": str(config.model_type),
        "text_layers": int(config.text_config.num_hidden_layers),
        "text_width": int(config.text_config.hidden_size),
        "vision_layers": int(config.vision_config.depth),
        "vision_width": int(config.vision_config.hidden_size),
        "vocabulary": int(config.text_config.vocab_size),
        "weights_sha256": digest.hexdigest(),
    }


def remember_identity(backbone: Qwen3VLForConditionalGeneration) -> None:
    """Keep it for good: once frozen weights lie in parts, no process has them to look at."""
    _REMEMBERED[backbone] = backbone_identity(backbone)


def differences(saved: Mapping[str, object], present: Mapping[str, object]) -> list[str]:
    """One line for each entry that differs; where a backbone lies does not count."""
    return [
        f"{key}: {saved.get(key)} in the checkpoint, {present[key]} here"
        for key in present
        if key != "name" and saved.get(key) != present[key]
    ]
