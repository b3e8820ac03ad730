"""A trained model from a checkpoint, which tells by itself what its network is built by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def options_of(
    config: DictConfig, overrides: Sequence[str], checkpoint: str | None
) -> dict[str, Any]:
    """What a configuration's `model` says of the backbone, for `load_trained`.

    Args:
        config: with a node `model`.
        overrides: the words of the command line.
        checkpoint: a file, or a saved folder, which has a backbone, `select` and `budget` of its
            own: the last two count unless they are on the command line. None: nothing trained is
            there, and the network is the usual one.

    Raises:
        ValueError: the words set what the checkpoint decides, or a network where there is none.
    """
    named = {word.lstrip("+~").partition("=")[0].replace("/", "."): word for word in overrides}
    folder = checkpoint is not None and Path(checkpoint).is_dir()
    decided = [f"model.{part}" for part in (*FROM_CHECKPOINT, *(["backbone"] if folder else []))]
    for key, word in named.items():
        if key.startswith(tuple(decided)):
            here = "there is no trained network that it says anything of"
            why = here if checkpoint is None else f"this is read off {checkpoint!r}"
            raise ValueError(f"{word}: {why}; leave it out.")
    options = {key: config.model[key] for key in OF_BACKBONE}
    if folder:
        options |= {key: None for key in ("select", "budget") if f"model.{key}" not in named}
    return options


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
