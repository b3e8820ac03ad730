"""Low-rank adapters inside a frozen backbone, through peft: the one file that imports it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from lightning_arrcoc.vlm.tensors import read_tensors

ADAPTER = "default"  # peft's own name for an only adapter
MARK = "lora_"  # what peft puts before the names of its parts ...
WRAPPED = ".base_layer."  # ... and into those of the parameters that it stands beside
ADAPTER_FILE = "adapter_model.safetensors"  # peft's own name, and ...
PEFT_START = "base_model.model."  # ... what it puts before a weight's name
FSDP1 = "_fsdp_wrapped_module."  # what torch puts before names within a block that it shards
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")  # the vision tower's are called otherwise


def add_lora(
    backbone: Qwen3VLForConditionalGeneration,
    *,
    rank: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
    targets: Sequence[str] = ATTENTION,
) -> None:
    """Put trainable adapters beside linear layers, in place; until trained they change nothing.

    The class of the backbone stays the stock one, and its own weights are frozen.

    Args:
        backbone: without adapters.
        rank: of each adapter.
        alpha: an adapter's output is scaled by ``alpha / rank``.
        dropout: of an adapter's input while training, 0 to 1.
        targets: names of the layers; by default the language model's attention projections.

    Raises:
        ImportError: peft is not installed.
        ValueError: a rank below one, or no layer of such a name.

    Source: E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section
    4. Departure: all four attention projections by default, not queries and values alone.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.tuners_utils import cast_adapter_dtype
    except ImportError as error:
        raise ImportError(
            'LoRA needs peft. Run: pip install "lightning-arrcoc[lora]", or leave model/lora=none.'
        ) from error
    settings = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets)
    )
    backbone.add_adapter(settings, adapter_name=ADAPTER)
    cast_adapter_dtype(backbone, ADAPTER)  # an optimizer's small steps are lost in bf16


def has_lora(backbone: Qwen3VLForConditionalGeneration) -> bool:
    """Whether there are adapters."""
    return hasattr(backbone, "peft_config")


def lora_parameters(backbone: Qwen3VLForConditionalGeneration) -> dict[str, nn.Parameter]:
    """The adapters' own weights by their names in the backbone; empty without adapters."""
    return {
        name.replace(FSDP1, ""): value
        for name, value in backbone.named_parameters()
        if MARK in name
    }


def base_parameters(backbone: Qwen3VLForConditionalGeneration) -> dict[str, nn.Parameter]:
    """The stock model's weights by their stock names, adapters or not."""
    return {
        name.replace(WRAPPED, "."): value
        for name, value in backbone.named_parameters()
        if MARK not in name
    }


def lora_settings(backbone: Qwen3VLForConditionalGeneration) -> dict[str, Any]:
    """What the adapters' effect depends on beside their weights, as plain values; or nothing."""
    if not has_lora(backbone):
        return {}
    settings = backbone.peft_config[ADAPTER]
    return {
        "rank": int(settings.r),
        "alpha": int(settings.lora_alpha),
        "targets": sorted(settings.target_modules),
    }


def set_lora_training(backbone: Qwen3VLForConditionalGeneration, mode: bool) -> None:
    """Switch the adapters' dropout, and nothing else of the backbone."""
    for name, module in backbone.named_modules():
        if MARK in name:
            module.train(mode)


@contextmanager
def base_alone(backbone: Qwen3VLForConditionalGeneration) -> Iterator[None]:
    """Within it the backbone answers as if it had no adapters: as the stock model does."""
    if not has_lora(backbone):
        yield
        return
    learning = {name: value.requires_grad for name, value in lora_parameters(backbone).items()}
    backbone.disable_adapters()
    try:
        yield
    finally:
        backbone.enable_adapters()
        for name, value in lora_parameters(backbone).items():
            value.requires_grad_(learning[name])  # peft switches these as well


@contextmanager
def without_lora(backbone: Qwen3VLForConditionalGeneration) -> Iterator[None]:
    """Within it the backbone is the stock model, also when it is saved: adapters are taken out."""
    if not has_lora(backbone):
        yield
        return
    adapters = Adapters(backbone)
    adapters.take_out()
    try:
        yield
    finally:
        adapters.put_in()


class Adapters:
    """Adapters that can be taken out of their backbone, which then is the stock model again.

    Module for module: nothing is copied, and nothing is computed differently for having had them.
    """

    def __init__(self, backbone: Qwen3VLForConditionalGeneration) -> None:
        self.backbone = backbone
        self.settings = getattr(backbone, "peft_config", {})
        self.places: list[tuple[nn.Module, str, Any]] = []
        for name, module in backbone.named_modules():
            if hasattr(module, "base_layer"):
                parent, _, leaf = name.rpartition(".")
                self.places.append((backbone.get_submodule(parent), leaf, module))

    def take_out(self) -> None:
        """Leave the stock model."""
        for parent, leaf, module in self.places:
            setattr(parent, leaf, module.base_layer)
        vars(self.backbone).pop("peft_config", None)
        # The class's own word, that there is none, counts again.
        vars(self.backbone).pop("_hf_peft_config_loaded", None)

    def put_in(self) -> None:
        """Have them back where they were."""
        self.backbone.peft_config = self.settings
        self.backbone._hf_peft_config_loaded = True
        for parent, leaf, module in self.places:
            setattr(parent, leaf, module)


def save_lora(backbone: Qwen3VLForConditionalGeneration, folder: str | Path) -> None:
    """Write the adapters in peft's own format, for ``peft.PeftModel.from_pretrained``."""
    # transformers would ask for all weights first, which no process has where they are sharded.
    weights = {
        PEFT_START + name.replace(f".{ADAPTER}.", "."): value.detach().cpu().contiguous()
        for name, value in lora_parameters(backbone).items()
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(weights, Path(folder) / ADAPTER_FILE, {"format": "pt"})
    settings = copy.copy(backbone.peft_config[ADAPTER])
    if Path(str(settings.base_model_name_or_path)).is_dir():
        settings.base_model_name_or_path = None  # where it lay says nothing elsewhere
    settings.save_pretrained(folder)


def load_lora(backbone: Qwen3VLForConditionalGeneration, path: Path) -> None:
    """Fill the adapters that are in the backbone with weights that `save_lora` wrote.

    peft's own way reads settings from the folder that may name code to import; here they come from
    whoever put the adapters in, and the file holds tensors alone.

    Raises:
        ValueError: names or shapes are others, or the file is damaged.
    """
    here = {
        PEFT_START + name.replace(f".{ADAPTER}.", "."): value
        for name, value in lora_parameters(backbone).items()
    }
    saved = read_tensors(path, here)
    with torch.no_grad():
        for name, value in here.items():
            value.copy_(saved[name])


@contextmanager
def merged(backbone: Qwen3VLForConditionalGeneration) -> Iterator[None]:
    """Within it the backbone is the stock model, with the adapters' effect in its own weights.

    Rounded to the type of these weights. Afterwards it is what it was, bit for bit.
    """
    adapters = Adapters(backbone)
    layers = [layer for _, _, layer in adapters.places]
    before = [layer.base_layer.weight.data for layer in layers]
    try:
        for layer in layers:
            layer.merge(safe_merge=True)  # into a copy; refuses what is not finite
        adapters.take_out()
        yield
    finally:
        adapters.put_in()
        for layer, weight in zip(layers, before, strict=True):
            layer.base_layer.weight.data = weight
            layer.merged_adapters.clear()
