"""The selector in int8: activations and weights of its convolutions and linear layers.

Through torchao's quantization of exported programs (PT2E), which took the place of
torch.ao.quantization: observed, converted to int8 with quantize and dequantize between, and meant
to be compiled by inductor, whose kernels then join the three.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_arrcoc.export.extras import quiet, require
from lightning_arrcoc.export.selector import SelectorProgram
from lightning_arrcoc.export.torch_export import traced
from lightning_arrcoc.relevance import Previous, Realization, RelevanceRealizer
from lightning_arrcoc.relevance.realizer import given_images

Inputs = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def quantized(program: SelectorProgram, seen: Sequence[Inputs], *, dynamic: bool) -> Any:
    """The selector as a `torch.export` program in int8.

    Args:
        program: in fp32.
        seen: real inputs; static quantization takes the range of every activation from them.
        dynamic: measure the range of activations in every call instead.

    Raises:
        ImportError: torchao is not installed.
    """
    require("quantize", "torchao")
    with warnings.catch_warnings(), quiet("torchao", "torch.utils._pytree"):
        warnings.filterwarnings("ignore")  # of torchao, about torch and its own names
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_dynamic=dynamic))
        observed = prepare_pt2e(traced(program).module(), quantizer)
        for inputs in seen:
            observed(*inputs)
        converted = convert_pt2e(observed)
        return traced(without_leftovers(converted), like=program)


def without_leftovers(graph: Any) -> Any:
    """A graph without the fp32 weights that int8 ones took the place of."""
    graph.graph.eliminate_dead_code()
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    tensors = [*dict(graph.named_parameters()), *dict(graph.named_buffers())]
    for name in tensors:
        if name not in used:
            where, _, leaf = name.rpartition(".")
            delattr(graph.get_submodule(where), leaf)
    graph.recompile()
    return graph


class ProgramSelector(nn.Module):
    """Lets a program find what is relevant where the network would; the rest stays the network's.

    Args:
        network: measures textures and allocates.
        run: a program of the selector.
    """

    def __init__(self, network: RelevanceRealizer, run: Any) -> None:
        super().__init__()
        self.network, self.run = network, run
        self.allocator = network.allocator

    def forward(
        self,
        images_I3hw: Tensor | None,
        query_ILD: Tensor,
        mask_IL: Tensor,
        textures_ICHW: Tensor | None = None,
        previous: Previous | None = None,
    ) -> Realization:
        """As `RelevanceRealizer.forward`, but for the scores, which a program does not tell."""
        if textures_ICHW is None:
            textures_ICHW = self.network.measure(given_images(images_I3hw), previous)
        logit, tensions, *looks = self.run(textures_ICHW.float(), query_ILD.float(), mask_IL)
        unknown = torch.full_like(textures_ICHW[:, :3], torch.nan)
        return Realization(textures_ICHW, unknown, tensions, logit, looks[0] if looks else None)
