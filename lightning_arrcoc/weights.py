"""What a checkpoint holds: the trained weights alone, and what they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.identity import backbone_identity, differences
from lightning_arrcoc.vlm.lora import lora_parameters, lora_settings

Trains = Literal["arr_coc", "backbone"]
IDENTITY, LORA = "backbone", "lora"  # keys in a checkpoint


def trained_weights(model: ArrCocQwen3VL, trains: Trains) -> dict[str, Tensor]:
    """Weights that change in training, by their names in the model."""
    part = getattr(model, trains)
    weights = {f"{trains}.{name}": value for name, value in part.state_dict().items()}
    if trains == "arr_coc":
        adapters = lora_parameters(model.backbone).items()
        weights |= {f"backbone.{name}": value.detach() for name, value in adapters}
    return weights


def belongings(model: ArrCocQwen3VL, trains: Trains) -> dict[str, Any]:
    """What these weights belong to, as plain values to be compared and never to be built from."""
    if trains == "backbone":
        return {}
    settings = lora_settings(model.backbone)
    return {IDENTITY: backbone_identity(model.backbone)} | ({LORA: settings} if settings else {})


def fitting_weights(
    checkpoint: Mapping[str, Any],
    model: ArrCocQwen3VL,
    trains: Trains,
    *,
    fresh_lora: bool = False,
) -> dict[str, Tensor]:
    """A checkpoint's weights by their names in the model, once it is sure that they belong there.

    Args:
        checkpoint: with `state_dict` and what `belongings` said.
        model: where they are to go.
        trains: which part.
        fresh_lora: leave the adapters as they are where the checkpoint has none.

    Raises:
        ValueError: they were trained on another backbone, with other adapters or in another
            architecture.
    """
    saved: dict[str, Tensor] = checkpoint["state_dict"]
    present = belongings(model, trains)
    if trains == "arr_coc" and IDENTITY in checkpoint:
        other = differences(checkpoint[IDENTITY], present[IDENTITY])
        if other:
            raise ValueError(
                f"The checkpoint belongs to the backbone {checkpoint[IDENTITY].get('name')!r}, "
                f"not to this one ({'; '.join(other[:3])}). Set model.backbone to the one it "
                "was trained on."
            )
    expected = trained_weights(model, trains)
    if fresh_lora and LORA not in checkpoint:
        expected = {name: value for name, value in expected.items() if name.startswith(trains)}
    elif checkpoint.get(LORA) != present.get(LORA):
        raise ValueError(
            f"The checkpoint was trained {_in_words(checkpoint.get(LORA))}, this model is "
            f"{_in_words(present.get(LORA))}. Compose the model as it was trained "
            f"({'model/lora=default' if LORA in checkpoint else 'model/lora=none'})."
        )
    wrong = [
        f"{name}: {_shape(saved, name)} in the checkpoint, {_shape(expected, name)} here"
        for name in sorted(saved.keys() | expected.keys())
        if _shape(saved, name) != _shape(expected, name)
    ]
    if wrong:
        raise ValueError(
            f"The checkpoint holds another architecture: {'; '.join(wrong[:3])}"
            f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}. Compose the model as "
            "it was trained (model=..., model.arr_coc=...)."
        )
    return saved


def _in_words(lora: Mapping[str, Any] | None) -> str:
    if not lora:
        return "without LoRA"
    return "with LoRA (" + ", ".join(f"{key} {value}" for key, value in lora.items()) + ")"


def _shape(state: Mapping[str, Tensor], name: str) -> str:
    return str(tuple(state[name].shape)) if name in state else "absent"
