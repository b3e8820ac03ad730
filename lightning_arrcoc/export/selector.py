"""The selector as a program of tensors: textures and question -> all that the allocation needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_arrcoc.export.allocate import allocate
from lightning_arrcoc.relevance import CELL_PX, RelevanceRealizer
from lightning_arrcoc.vlm import ArrCocQwen3VL

INPUTS = ("textures", "query", "mask")
OUTPUTS = ("relevance_logit", "tensions", "looks")
# Chosen by us: of the largest value, or of 1 where all are smaller. Other kernels add up in another
# order, which gave 7e-7; a wrong sum gives far more.
TOLERANCE = 1e-5
# Images, rows, columns, tokens of the question: single cells, rows and columns, odd and even,
# portrait and landscape, up to 1024 x 1024 px and beyond, and questions of one word to a page.
SIZES = (
    (1, 1, 1, 1), (1, 1, 9, 3), (1, 9, 1, 3), (1, 2, 2, 2), (1, 3, 5, 7),
    (1, 4, 4, 12), (1, 5, 15, 9), (1, 7, 7, 60), (1, 8, 13, 1), (1, 12, 12, 10),
    (1, 12, 12, 300), (1, 16, 16, 24), (1, 15, 17, 13), (1, 24, 7, 5), (1, 31, 33, 20),
    (1, 32, 32, 30), (1, 48, 20, 8), (1, 64, 64, 40), (2, 12, 11, 6), (5, 10, 10, 15),
)  # fmt: skip
Size = tuple[int, int, int, int]
Arrays = list[NDArray[Any]]


class SelectorProgram(nn.Module):
    """The network alone, called by position and answering a tuple, as programs are.

    Args:
        network: its textures are measured elsewhere, by lightning_arrcoc.
    """

    def __init__(self, network: RelevanceRealizer) -> None:
        super().__init__()
        self.network = network

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names; without "looks" where no channel tells cells apart."""
        return OUTPUTS if self.network.looks else OUTPUTS[:2]

    def forward(
        self, textures_ICHW: Tensor, query_ILD: Tensor, mask_IL: Tensor
    ) -> tuple[Tensor, ...]:
        """Find what is relevant.

        Args:
            textures_ICHW: as `TextureGenerator` measures them, fp32.
            query_ILD: rows of the backbone's embedding table, of the question's tokens, fp32.
            mask_IL: True at the question's own tokens; a row without any asks no question.

        Returns:
            Log-odds of the relevance ``(I, H, W)``, tensions ``(I, 3)``, and what cells are told
            apart by ``(I, D, H, W)``.
        """
        found = self.network(None, query_ILD, mask_IL, textures_ICHW)
        looks = () if found.looks is None else (found.looks,)
        return (found.relevance_logit, found.tensions, *looks)

    def inputs(self, size: Size, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of a size; of several images the last has no question."""
        images, rows, columns, tokens = size
        generator = torch.Generator().manual_seed(seed)
        width, channels = self.network.null_query.numel(), len(self.network.texture.channels)  # type: ignore[arg-type]
        mask_IL = torch.rand(images, tokens, generator=generator) < 0.8
        mask_IL[:, 0] = True
        if images > 1:
            mask_IL[-1] = False
        return (
            torch.rand(images, channels, rows, columns, generator=generator),
            torch.randn(images, tokens, width, generator=generator),
            mask_IL,
        )

    @property
    def axes(self) -> tuple[dict[int, str], ...]:
        """Which axes may be of any length, for each input, by name."""
        asked = {0: "images", 1: "tokens"}
        return {0: "images", 2: "rows", 3: "columns"}, asked, asked

    @property
    def example(self) -> tuple[Tensor, Tensor, Tensor]:
        """To be traced with: no axis is 1, and no two are alike."""
        return self.inputs((3, 12, 11, 7))


class Checked(NamedTuple):
    """How far an exported program is from the network.

    Attributes:
        errors: by output, the largest difference, as a share of the largest value where that is
            above 1.
        sizes: how many sizes were tried.
        alike: on how many of them a budget of a quarter bought the same tokens.
    """

    errors: dict[str, float]
    sizes: int
    alike: int

    @property
    def sound(self) -> bool:
        """Whether every difference is within the tolerance; one that is no number is not."""
        return all(error <= TOLERANCE for error in self.errors.values())

    def lines(self, what: str) -> list[str]:
        """In words."""
        told = ", ".join(f"{name} {error:.1e}" for name, error in self.errors.items())
        verdict = "" if self.sound else f" NOT EQUAL: expected {TOLERANCE:.0e} at most."
        return [
            f"{what}, against torch on {self.sizes} sizes: largest difference, as a share of the "
            f"largest value, {told}.{verdict}",
            f"The same tokens are chosen on {self.alike} of {self.sizes}.",
        ]


@torch.no_grad()
def check(
    run: Callable[[tuple[Tensor, Tensor, Tensor]], Sequence[Any]],
    program: SelectorProgram,
    sizes: Sequence[Size] = SIZES,
) -> Checked:
    """Compare an exported program with the network, size by size."""
    errors = dict.fromkeys(program.outputs, 0.0)
    alike = 0
    for seed, size in enumerate(sizes):
        inputs = program.inputs(size, seed)
        expected = [np.asarray(part) for part in program(*inputs)]
        found = [np.asarray(part) for part in run(inputs)]
        for name, one, other in zip(program.outputs, expected, found, strict=True):
            errors[name] = max(errors[name], _difference(one, other))
        alike += _tokens(expected) == _tokens(found)
    return Checked(errors, len(sizes), alike)


def _difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Infinite where it cannot be told."""
    if expected.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(expected - found).max() / max(1.0, np.abs(expected).max()))


def _tokens(outputs: Arrays) -> list[Any]:
    """What a quarter of the tokens are spent on, in each image; nothing where none can be."""
    chosen: list[Any] = []
    if outputs[1].shape[1:] != (3,):
        return chosen
    for logit, tensions, *looks in zip(*outputs, strict=True):
        if not (np.isfinite(logit).all() and np.isfinite(tensions).all()):
            return []
        chosen.append(allocate(logit, tensions, looks[0] if looks else None, 0.25).boxes.tolist())
    return chosen


def described(model: ArrCocQwen3VL, program: SelectorProgram) -> dict[str, Any]:
    """What a reader needs to feed the program and to spend a budget, as plain values."""
    texture, allocator = model.arr_coc.texture, model.arr_coc.allocator
    return {
        "inputs": {
            "textures": ["images", "channels", "rows", "columns"],
            "query": ["images", "tokens", "width"],
            "mask": ["images", "tokens"],
        },
        "outputs": list(program.outputs),
        "cell_px": CELL_PX,
        "channels": [channel.name for channel in texture.channels],  # type: ignore[union-attr]
        "width": model.arr_coc.null_query.numel(),
        "allocate": {"coarse": allocator.coarse, "temperature": allocator.temperature},
        "budget": model.budget,
        "select": model.select,
    }
