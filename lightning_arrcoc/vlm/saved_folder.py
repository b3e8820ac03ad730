"""A folder in Hugging Face's style: ARR-COC's weights, what they belong to, and a processor.

    arr_coc_config.json   what the network is built by, and the name of its backbone
    arr_coc.safetensors   ARR-COC's own weights
    adapter/              low-rank adapters in peft's own format, where there are any
    tokenizer and image processor as the hub has them; README.md, the model card
    config.json, *.safetensors   the backbone itself, where adapters were merged into it once

Nothing that the folder names is imported or called, and no file of it is a pickle: its words choose
among our own parts, and every tensor is known by name and shape before it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save_file

from lightning_arrcoc.atomic import replacing_folder
from lightning_arrcoc.relevance import RelevanceRealizer
from lightning_arrcoc.relevance.blueprint import Blueprint
from lightning_arrcoc.vlm.card import model_card
from lightning_arrcoc.vlm.exported_files import ADAPTER, CARD, CONFIG, WEIGHTS, is_ours
from lightning_arrcoc.vlm.identity import backbone_identity, differences, present_identity
from lightning_arrcoc.vlm.loading import TINY, TINY_FOLDER, is_hub_id
from lightning_arrcoc.vlm.lora import (
    ADAPTER_FILE,
    add_lora,
    has_lora,
    load_lora,
    lora_settings,
    merged,
    save_lora,
    without_lora,
)
from lightning_arrcoc.vlm.quantizing import Bits, is_quantized, quantize_language_model
from lightning_arrcoc.vlm.tensors import read_tensors

if TYPE_CHECKING:
    from lightning_arrcoc.vlm.qwen3_vl import ArrCocQwen3VL

SELF = "."  # a folder that holds its backbone as well
WANTED = ["*.json", "*.jinja", "*.safetensors"]  # of a repository; never code, never a pickle
MOST_CONFIG_BYTES = 1 << 20  # Chosen by us: ours take two thousand
MOST_RANK = 1024  # Chosen by us: more than anybody uses, and no folder may ask for all memory
EXACT = ("auto", "float32", torch.float32)  # dtypes that no stored weight is rounded to


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Network(_Plain):
    """As `Blueprint`."""

    channels: tuple[str, ...] = Field(min_length=1)
    scorers: tuple[str, ...] = Field(min_length=1)
    adaptive: bool
    query_blind: bool
    coarse: bool
    temperature: float


class LoraPart(_Plain):
    """As `lora_settings`."""

    rank: int = Field(ge=1, le=MOST_RANK)
    alpha: int = Field(ge=1)
    targets: tuple[str, ...] = Field(min_length=1)


class Settings(_Plain):
    """What the folder says of itself."""

    format: Literal["hf"] = "hf"
    version: Literal[1] = 1
    backbone: str
    backbone_identity: dict[str, str | int]
    network: Network
    select: Literal["before_vision", "after_vision"]
    budget: int | float
    lora: LoraPart | None = None
    language_model: Bits | None = None


def save_folder(
    model: ArrCocQwen3VL, folder: str | Path, *, overwrite: bool = False, **options: Any
) -> None:
    """Write the folder, whole or not at all; options are those of `write_folder`."""
    with replacing_folder(folder, replace=overwrite and is_ours(Path(folder))) as new:
        write_folder(model, new, **options)


def write_folder(
    model: ArrCocQwen3VL,
    new: Path,
    *,
    merge_lora: bool = False,
    language_model: Bits | None = None,
    measured: str | None = None,
) -> None:
    """Fill an empty folder.

    Args:
        model: with a processor; nothing of it changes.
        new: where to.
        merge_lora, measured: as for `ArrCocQwen3VL.save_pretrained`.
        language_model: how its weights are to be quantized when the folder is loaded.

    Raises:
        ValueError: no processor, a quantized backbone, parts that are not ours, or no adapters to
            merge.
    """
    if is_quantized(model.backbone):
        raise ValueError(
            "The backbone's weights are quantized and cannot be saved. Export from the checkpoint "
            "that this model was made from."
        )
    if model.processor is None:
        raise ValueError("The model has no processor to save; load it with from_pretrained.")
    if merge_lora and not has_lora(model.backbone):
        raise ValueError("merge_lora=true, but there are no adapters to merge. Leave it out.")
    blueprint = Blueprint.of(model.arr_coc)
    lora = {} if merge_lora else lora_settings(model.backbone)
    own = merge_lora or model.owns_backbone
    if own:  # such weights are nowhere else
        with merged(model.backbone) if merge_lora else without_lora(model.backbone):
            model.backbone.save_pretrained(new)
            identity = present_identity(model.backbone)
    else:
        identity = backbone_identity(model.backbone)
    if lora:
        save_lora(model.backbone, new / ADAPTER)
        lora["targets"] = tuple(lora["targets"])
    weights = {name: value.contiguous() for name, value in model.arr_coc.state_dict().items()}
    save_file(weights, new / WEIGHTS, metadata={"format": "pt"})
    model.processor.save_pretrained(new)
    settings = Settings(
        backbone=SELF if own else backbone_name(model),
        backbone_identity=identity | {"name": ""},  # where it lay says nothing elsewhere
        network=Network(**vars(blueprint)),
        select=model.select,
        budget=model.budget,
        lora=LoraPart(**lora) if lora else None,
        language_model=language_model,
    )
    (new / CONFIG).write_text(settings.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (new / CARD).write_text(model_card(settings.model_dump(), measured), encoding="utf-8")


def backbone_name(model: ArrCocQwen3VL) -> str:
    """What to load the backbone by: "tiny", a hub id, or where it lies."""
    name = str(model.backbone.config.name_or_path)
    if Path(name) == TINY_FOLDER:
        return TINY
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def saved_folder(name: str) -> Path | None:
    """Where a saved ARR-COC lies, fetched if it is on the hub; None for a backbone."""
    if Path(name).is_dir():
        return Path(name) if (Path(name) / CONFIG).is_file() else None
    if name == TINY or not is_hub_id(name):
        return None
    try:
        hf_hub_download(name, CONFIG)
    except (EntryNotFoundError, HfHubHTTPError, OSError):  # whoever loads a backbone says more
        return None
    return Path(snapshot_download(name, allow_patterns=WANTED))


def read_settings(folder: Path) -> Settings:
    """What a saved folder says of itself.

    Raises:
        ValueError: it is no such folder, or says what cannot be.
    """
    path = folder / CONFIG
    if path.stat().st_size > MOST_CONFIG_BYTES:
        raise ValueError(f"{str(path)!r} has more than {MOST_CONFIG_BYTES} bytes; ours are small.")
    try:
        return Settings.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(
            f"{str(path)!r} is no description of a saved ARR-COC: {where}: {first['msg']}. "
            "Expected one that `export format=hf` or save_pretrained wrote."
        ) from error


def restore(
    assemble: Callable[..., Any],
    folder: Path,
    *,
    select: str | None,
    budget: int | float | None,
    **options: Any,
) -> Any:
    """The model that was saved.

    Raises:
        ValueError: the folder does not hold what it says, or its backbone is another one.
    """
    settings = read_settings(folder)
    lora = partial(add_lora, **settings.lora.model_dump()) if settings.lora else None
    name = str(folder) if settings.backbone == SELF else settings.backbone
    model = assemble(
        name,
        processor=folder,
        select=settings.select if select is None else select,
        budget=settings.budget if budget is None else budget,
        arr_coc=Blueprint(**settings.network.model_dump()),
        lora=lora,
        **options,
    )
    known, present = settings.backbone_identity, backbone_identity(model.backbone)
    if options["dtype"] not in EXACT:  # rounded weights have another fingerprint
        known = {**known, "weights_sha256": present["weights_sha256"]}
    other = differences(known, present)
    if other:
        raise ValueError(
            f"{str(folder)!r} belongs to another backbone than {name!r} is now "
            f"({'; '.join(other[:3])}). Name the right one in its {CONFIG}."
        )
    model.owns_backbone = settings.backbone == SELF
    fill(model.arr_coc, folder / WEIGHTS)
    if settings.lora:
        load_lora(model.backbone, folder / ADAPTER / ADAPTER_FILE)
    if settings.language_model:
        quantize_language_model(model.backbone, settings.language_model)
    return model


def fill(network: RelevanceRealizer, path: Path) -> None:
    """Put saved weights into a network.

    Raises:
        ValueError: names or shapes are others, or the file is damaged.
    """
    network.load_state_dict(read_tensors(path, network.state_dict()))
