"""A trained model from a checkpoint, which tells by itself what its network is built by."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lightning_arrcoc.compare.blueprint import blueprint_of, lora_of
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.lora import add_lora
from lightning_arrcoc.weights import fitting_weights

OWN = "arr_coc."  # how names of ARR-COC's weights begin in a checkpoint
FROM_CHECKPOINT = ("arr_coc", "lora")  # nodes of model= that a checkpoint decides
OF_BACKBONE = (
    "backbone", "select", "budget", "dtype", "min_pixels", "max_pixels", "random_weights",
)  # fmt: skip


def load_trained(path: str | Path, **options: Any) -> ArrCocQwen3VL:
    """Put a checkpoint's network, weights and adapters on their backbone.

    Args:
        path: a checkpoint that was verified, or a folder that `save_pretrained` wrote, which names
            its own backbone.
        **options: of `ArrCocQwen3VL.from_pretrained`.

    Raises:
        ValueError: it holds no ARR-COC, or one of another backbone or architecture.
    """
    if Path(path).is_dir():  # never by its name alone, which may have the form of a hub id
        kept = {key: options[key] for key in options if key not in ("backbone", "random_weights")}
        return ArrCocQwen3VL.from_pretrained(str(path), **kept).eval()
    content = torch.load(path, map_location="cpu", weights_only=True)
    blueprint, lora = _described(path, content)
    adapters = partial(add_lora, **lora._asdict()) if lora else None
    model = ArrCocQwen3VL.from_pretrained(arr_coc=blueprint, lora=adapters, **options)
    model.load_state_dict(fitting_weights(content, model, "arr_coc"), strict=False)
    return model.eval()


def options_of(config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """What a configuration's `model` says of the backbone, for `load_trained`.

    Args:
        config: with a node `model`.
        overrides: the words of the command line.

    Raises:
        ValueError: they set what the checkpoint decides.
    """
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if key.replace("/", ".").startswith(tuple(f"model.{part}" for part in FROM_CHECKPOINT)):
            raise ValueError(f"{word}: the network is read off the checkpoint; leave this out.")
    return {key: config.model[key] for key in OF_BACKBONE}


def _described(path: str | Path, content: Mapping[str, Any]) -> Any:
    """Blueprint and adapters of a checkpoint."""
    if not any(str(name).startswith(OWN) for name in content["state_dict"]):
        raise ValueError(
            f"{str(path)!r} holds no weights of ARR-COC; expected one that training=arr_coc saved."
        )
    try:
        return blueprint_of(content), lora_of(content)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"The network of {str(path)!r} cannot be told from the checkpoint: {error}."
        ) from error
