"""Which small network a checkpoint's weights belong to.

Nothing that a checkpoint names is imported or called: its words choose among our own parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from lightning_arrcoc.architecture import MAY_DIFFER
from lightning_arrcoc.plugins.manifest import STAMPS
from lightning_arrcoc.relevance import RelevanceRealizer
from lightning_arrcoc.relevance.blueprint import Blueprint
from lightning_arrcoc.relevance.textures import CORE, FULL
from lightning_arrcoc.weights import LORA

Builder = Callable[[int], RelevanceRealizer]
SCORERS = {
    "information": "arr_coc.knowing.info_scorer.",
    "perspectival": "arr_coc.knowing.persp_scorer.",
    "participatory": "arr_coc.knowing.partic_scorer.",
}
ADAPTIVE = "arr_coc.balancer.policy_net."


class LoraSettings(NamedTuple):
    """What adapters are put in with."""

    rank: int
    alpha: int
    targets: tuple[str, ...]


def blueprint_of(checkpoint: Mapping[str, Any]) -> Blueprint:
    """Read it off a checkpoint's weights, and what shapes do not tell off its stamps.

    Stamps of before query_blind, coarse and temperature were told mean the usual ones.

    Raises:
        ValueError: it does not tell its channels, or tells what cannot be.
    """
    weights: Mapping[str, torch.Tensor] = checkpoint["state_dict"]
    own = _plain(_plain(_plain(checkpoint, STAMPS), "architecture"), "own")
    told = _plain(own, MAY_DIFFER)
    channels = _plain(own, "texture").get("channels") or _usual_channels(weights)
    scorers = tuple(name for name, start in SCORERS.items() if _any_starts(weights, start))
    temperature = told.get("temperature")
    if not _is_names(channels) or not isinstance(temperature, float | None):
        raise ValueError(f"channels={channels!r:.80}, temperature={temperature!r:.20}")
    return Blueprint(
        tuple(channels),
        scorers,
        _any_starts(weights, ADAPTIVE),
        told.get("query_blind") is True,
        told.get("coarse") is not False,
        Blueprint.temperature if temperature is None else temperature,
    )


def lora_of(checkpoint: Mapping[str, Any]) -> LoraSettings | None:
    """Its adapters' settings, None without adapters.

    Raises:
        ValueError: they are no settings, or not those of its weights.
    """
    told = checkpoint.get(LORA)
    if told is None:
        return None
    settings: Any = _plain(checkpoint, LORA)
    rank, alpha, targets = (settings.get(key) for key in LoraSettings._fields)
    ranks = {
        len(value)
        for name, value in checkpoint["state_dict"].items()
        if ".lora_A." in name and value.ndim
    }
    if ranks != {rank} or not isinstance(alpha, int) or not _is_names(targets):
        raise ValueError(f"LoRA settings {told!r:.120} do not belong to adapters of rank {ranks}.")
    return LoraSettings(rank, alpha, tuple(targets))


def _plain(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, Mapping) else {}


def _is_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)


def _any_starts(names: Mapping[str, Any], start: str) -> bool:
    return any(name.startswith(start) for name in names)


def _usual_channels(weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Of a checkpoint without stamps: one of the two tables, by its size."""
    widths = [value.shape[1] for name, value in weights.items()
              if name.endswith(("scorer.residual.0.weight", "scorer.cells.0.weight"))]  # fmt: skip
    for table in (CORE, FULL):
        if widths and set(widths) == {len(table)}:
            return [channel.name for channel in table]
    raise ValueError("it does not tell its texture channels")
