"""Weights of the language model in 8 or 4 bits, through torchao: computed with as before.

torch.ao.quantization is deprecated; torchao is where this lives now.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn
from transformers import Qwen3VLForConditionalGeneration

Bits = Literal["int8", "int4"]
GROUP = 32  # weights that share a scale in int4; Chosen by us: torchao's least, the most exact
FLATTEN = "__tensor_flatten__"  # what torch asks a tensor that is made of several


def quantize_language_model(backbone: Qwen3VLForConditionalGeneration, bits: Bits) -> None:
    """Quantize the weights of its linear layers in place; it can only answer then, not learn.

    A layer whose inputs are no multiple of 32 stays as it is in int4. Embeddings and what is tied
    to them, and the vision tower, stay as they are.

    Args:
        backbone: on the CPU.
        bits: "int8", one scale for each output; "int4", one for each 32 weights, packed for CPUs.

    Raises:
        ImportError: torchao is not installed.
        ValueError: int4 off the CPU.
    """
    if bits == "int4" and backbone.device.type != "cpu":
        raise ValueError(
            f"int4 is packed for CPUs, but the backbone is on {backbone.device}. Take int8 there."
        )
    try:
        # Of torchao 0.18's layouts of int4 it is the one whose kernels run on a CPU.
        from torchao.prototype.quantization.int4.inference_workflow import (
            PrototypeInt4WeightOnlyConfig,
        )
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ImportError(
            f"{bits} weights need torchao of this version. Run: pip install "
            f'"lightning-arrcoc[quantize]" ({error})'
        ) from error
    config: Any = (
        Int8WeightOnlyConfig(set_inductor_config=False)
        if bits == "int8"
        else PrototypeInt4WeightOnlyConfig(group_size=GROUP, set_inductor_config=False)
    )
    quantize_(backbone.model.language_model, config)


def is_quantized(module: nn.Module) -> bool:
    """Whether any parameter is one of torchao's, which are made of several tensors."""
    return any(hasattr(parameter, FLATTEN) for parameter in module.parameters())


def bytes_of(module: nn.Module) -> int:
    """What a module's parameters take, quantized ones included."""
    return sum(_bytes(parameter) for parameter in module.parameters())


def _bytes(parameter: Any) -> int:
    """Of a tensor, or of those that one of torchao's is made of."""
    if not hasattr(parameter, FLATTEN):
        return int(parameter.numel() * parameter.element_size())
    names, _ = parameter.__tensor_flatten__()
    return sum(_bytes(getattr(parameter, name)) for name in names)
