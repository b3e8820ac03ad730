"""One path for the embedded backbone, a folder and a hub id; loud where it cannot work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lightning_arrcoc.vlm.loading import (
    TINY_FOLDER,
    lay_out_positions,
    load_backbone,
    locate,
    require_transformers,
)


@pytest.mark.parametrize("version", ["4.57.1", "5.0.0", "5.16.0", "5.17.9", "6.0.0", "6.1"])
def test_a_transformers_that_would_drop_the_image_is_refused(version: str) -> None:
    with pytest.raises(ImportError, match=rf"transformers {version}.*without having seen the"):
        require_transformers(version)


@pytest.mark.parametrize("version", ["5.18.0", "5.23.0", "5.99"])
def test_a_transformers_that_takes_features_is_accepted(version: str) -> None:
    require_transformers(version)
    assert locate("tiny") == str(TINY_FOLDER)


def test_a_sharded_folder_loads(backbone_folder: Path) -> None:
    assert len(list(backbone_folder.glob("*.safetensors"))) > 1
    model = load_backbone(str(backbone_folder))
    assert not model.training
    assert model.model.visual.deepstack_visual_indexes


def test_random_weights_are_drawn_from_the_seed(backbone_folder: Path) -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = load_backbone(str(backbone_folder), random_weights=True)
        return next(model.parameters()).detach()

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_a_hub_id_is_left_to_transformers() -> None:
    assert locate("Qwen/Qwen3-VL-2B-Instruct") == "Qwen/Qwen3-VL-2B-Instruct"


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/no/where", "~/x", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="No backbone"):
        locate(name)


def test_another_architecture_is_refused(backbone_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": 8}))
    with pytest.raises(ValueError, match="'qwen2' model; expected 'qwen3_vl'"):
        load_backbone(str(tmp_path))


def test_pickled_weights_are_not_read(backbone_folder: Path, tmp_path: Path) -> None:
    for file in backbone_folder.glob("*.json"):
        if "index" not in file.name:
            shutil.copy(file, tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_that_was_asked_for_is_used(backbone_folder: Path, attention: str) -> None:
    for random_weights in (False, True):
        model = load_backbone(
            str(backbone_folder), attn_implementation=attention, random_weights=random_weights
        )
        assert model.config.text_config._attn_implementation == attention
        assert model.model.visual.config._attn_implementation == attention


def test_positions_start_smooth_and_as_strong_as_patches() -> None:
    table = torch.zeros(64, 64)
    lay_out_positions(table)
    assert float(table.square().mean().sqrt()) == pytest.approx(2.0, rel=1e-4)
    assert table.mean(0).abs().max() < 1e-5
    assert len({tuple(row) for row in table.tolist()}) == 64
    grid = table.view(8, 8, 64)
    torch.testing.assert_close(grid[:, :1, :32].expand(8, 8, 32), grid[:, :, :32])  # rows alone
    torch.testing.assert_close(grid[:1, :, 32:].expand(8, 8, 32), grid[:, :, 32:])  # columns alone
    beside, across = (grid[0, 0] - grid[0, 1]).norm(), (grid[0, 0] - grid[7, 3]).norm()
    assert beside < across


def test_positions_of_random_weights_are_laid_out(backbone_folder: Path) -> None:
    model = load_backbone(str(backbone_folder), random_weights=True)
    expected = torch.zeros_like(model.model.visual.pos_embed.weight)
    lay_out_positions(expected)
    torch.testing.assert_close(model.model.visual.pos_embed.weight.detach(), expected)


def test_positions_that_are_no_square_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="63 position embeddings are no square grid"):
        lay_out_positions(torch.zeros(63, 64))


def test_damaged_weights_are_refused_in_one_line(backbone_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(backbone_folder, folder)
    shard = next(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:5])
    with pytest.raises(ValueError, match="are damaged"):
        load_backbone(str(folder))
