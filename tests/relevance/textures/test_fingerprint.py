"""What is kept on disk can tell whether it would be measured so today."""

from __future__ import annotations

import pytest
import torch

from lightning_arrcoc.relevance.textures import (
    TextureGenerator,
    detail,
    generator,
    picture,
    regions,
    table,
)

# Means over a picture. If these change, the formulas did: raise TEXTURES_VERSION, then put the new
# numbers here.
VERSION = 1
MEASURED = {
    "red": 0.4334, "green": 0.3646, "blue": 0.4169, "L": 0.4688, "a": 0.0792, "b": 0.0083,
    "edge_x": 0.0936, "edge_y": 0.1258, "edge_mean": 0.133, "edge_peak": 0.4678,
    "high_pass": 0.1123, "low_pass": 0.3885, "contrast": 0.3385, "entropy": 0.6089,
    "saliency": 0.0735, "text": 0.2804, "edge_distance": 0.1478, "boundary": 0.6615, "y": 0.5,
    "x": 0.5, "eccentricity": 0.5059, "motion": 0.0, "previous_saliency": 0.0,
    "previous_relevance": 0.0, "dct_01": -0.0021, "dct_02": -0.0073, "dct_03": -0.0066,
    "dct_10": -0.0037, "dct_11": 0.0051, "dct_12": -0.006, "dct_13": 0.0083, "dct_20": -0.0127,
    "dct_21": -0.0028, "dct_22": -0.0245, "dct_23": -0.0056, "dct_30": -0.0074, "dct_31": -0.0048,
    "dct_32": -0.0078, "dct_33": -0.0081, "chroma": 0.372,
}  # fmt: skip


def fixed() -> torch.Tensor:
    """Stripes, squares and waves, the lower third flat; by arithmetic alone."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(64.0), indexing="ij")
    red, green, blue = (x * 7 + y * 3) % 97 / 96, (x // 9 + y // 5) % 2 * 0.8, x * y % 53 / 52
    image = torch.stack([red, green, blue])[None]
    image[..., 64:, :] = 0.3
    return image


def test_formulas_are_those_of_their_version() -> None:
    texture = TextureGenerator("full")
    found = texture(fixed())[0].mean((1, 2)).tolist()
    names = [channel.name for channel in texture.channels]
    assert table.TEXTURES_VERSION == VERSION
    assert dict(zip(names, found, strict=True)) == pytest.approx(MEASURED, abs=2e-4)


def test_a_fingerprint_is_hexadecimal_and_stays() -> None:
    found = TextureGenerator().fingerprint
    assert len(found) == 64
    assert int(found, 16)
    assert TextureGenerator("core").fingerprint == found


def test_it_follows_channels_and_their_order() -> None:
    several = (["red", "green"], ["green", "red"], ["red"], "core", "full")
    assert len({TextureGenerator(channels).fingerprint for channels in several}) == 5


def test_it_follows_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = TextureGenerator().fingerprint
    monkeypatch.setattr(generator, "TEXTURES_VERSION", VERSION + 1)
    assert TextureGenerator().fingerprint != before


@pytest.mark.parametrize("field", ["group", "low", "high", "formula"])
def test_it_follows_a_channels_row(field: str) -> None:
    one, other = TextureGenerator(["entropy"]), TextureGenerator(["entropy"])
    changed = {"group": "contrast", "low": -1, "high": 2, "formula": "another"}[field]
    other.channels = (other.channels[0]._replace(**{field: changed}),)
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("home", "name", "channels"),
    [
        (detail, "LEVELS", ["entropy"]),
        (detail, "FINE_SIGMA_PX", ["high_pass"]),
        (regions, "ROUNDS", ["boundary"]),
        (picture, "XYZ_OF_D65", ["red"]),
        (picture, "STEP_PX", ["previous_saliency"]),
    ],
)
def test_it_follows_every_constant_that_its_channels_are_measured_with(
    home: object, name: str, channels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texture = TextureGenerator(channels)
    before = texture.fingerprint
    monkeypatch.setattr(home, name, 77)
    assert texture.fingerprint != before


def test_it_does_not_follow_what_other_channels_are_measured_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texture = TextureGenerator("core")
    before = texture.fingerprint
    monkeypatch.setattr(regions, "ROUNDS", 77)
    assert texture.fingerprint == before
