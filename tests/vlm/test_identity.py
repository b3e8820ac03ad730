"""A checkpoint knows its backbone again, and no other."""

from __future__ import annotations

from pathlib import Path

import torch

from lightning_arrcoc.vlm.identity import backbone_identity, differences
from lightning_arrcoc.vlm.loading import load_backbone


def test_one_backbone_is_the_same_wherever_it_lies(backbone_folder: Path, tmp_path: Path) -> None:
    backbone = load_backbone(str(backbone_folder))
    backbone.save_pretrained(tmp_path)
    copy = load_backbone(str(tmp_path))
    one, other = backbone_identity(backbone), backbone_identity(copy)
    assert one["name"] != other["name"]
    assert differences(one, other) == []


def test_one_changed_weight_is_another_backbone(backbone_folder: Path) -> None:
    backbone = load_backbone(str(backbone_folder))
    before = backbone_identity(backbone)
    with torch.no_grad():
        backbone.model.language_model.norm.weight[0] += 1e-3
    found = differences(before, backbone_identity(backbone))
    assert [line.split(":")[0] for line in found] == ["weights_sha256"]


def test_every_difference_is_named_with_both_sides(backbone_folder: Path) -> None:
    present = backbone_identity(load_backbone(str(backbone_folder)))
    saved = present | {"text_layers": 28, "vision_width": 1024}
    del saved["vocabulary"]
    assert differences(saved, present) == [
        f"text_layers: 28 in the checkpoint, {present['text_layers']} here",
        f"vision_width: 1024 in the checkpoint, {present['vision_width']} here",
        f"vocabulary: None in the checkpoint, {present['vocabulary']} here",
    ]


def test_an_identity_is_safe_to_load(backbone_folder: Path, tmp_path: Path) -> None:
    identity = backbone_identity(load_backbone(str(backbone_folder)))
    torch.save(identity, tmp_path / "identity")
    assert torch.load(tmp_path / "identity", weights_only=True) == identity
