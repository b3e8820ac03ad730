"""The four steps in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lightning_arrcoc.relevance.allocation import ImageRelevance, TokenAllocator
from lightning_arrcoc.relevance.balancing import AdaptiveTensions, balance
from lightning_arrcoc.relevance.knowing import Knowing, standardised
from lightning_arrcoc.relevance.textures import Previous, TextureGenerator

LOOKLESS = ("place", "previous")  # groups of channels


class Realization(NamedTuple):
    """What was found relevant in images of one size, and why.

    Attributes:
        textures: ``(I, C, H, W)``.
        scores: information, perspectival, participatory ``(I, 3, H, W)`` in [0, 1].
        tensions: exploit, compress, focus ``(I, 3)`` in [0, 1], fp32.
        relevance_logit: log-odds of the relevance ``(I, H, W)``, fp32.
        looks: what cells are told apart by when look-alikes are looked for ``(I, D, H, W)``; None
            where nothing is known of that.
        seen: what the next frame or turn is told as `previous`; None where nothing is remembered.
    """

    textures: Tensor
    scores: Tensor
    tensions: Tensor
    relevance_logit: Tensor
    looks: Tensor | None = None
    seen: Previous | None = None

    @property
    def relevance(self) -> Tensor:
        """``(I, H, W)`` in [0, 1]."""
        return self.relevance_logit.sigmoid()

    def image(self, index: int) -> ImageRelevance:
        """What the allocator needs to know of one image."""
        looks = None if self.looks is None else self.looks[index]
        return ImageRelevance(self.relevance_logit[index], self.tensions[index], looks)


class Selector(Protocol):
    """What chooses visual tokens: `RelevanceRealizer`, a baseline, or anything of your own.

    Attributes:
        allocator: spends a sample's budget on the relevance found.
    """

    allocator: TokenAllocator

    def __call__(
        self,
        images_I3hw: Tensor | None,
        query_ILD: Tensor,
        mask_IL: Tensor,
        textures_ICHW: Tensor | None = None,
        previous: Previous | None = None,
        /,
    ) -> Realization:
        """As `RelevanceRealizer.forward`; one that remembers nothing ignores `previous`."""


class RelevanceRealizer(nn.Module):
    """Image and question -> relevance of each cell; then relevance -> tokens.

    Its parameters stay in fp32: a cast of the model around it moves them but does not round them.

    Args:
        texture: image -> textures; offers `out_channels`.
        knowing: textures and question -> three logit maps; may name the `scorers` that are heard.
        balancer: logit maps and context -> tensions.
        allocator: relevance of a sample's images -> their allocations.
        query_dim: width of the question's token embeddings.
        query_blind: ask the learned null query about every image, whatever its question.
    """

    def __init__(
        self,
        texture: nn.Module,
        knowing: nn.Module,
        balancer: nn.Module,
        allocator: TokenAllocator,
        query_dim: int,
        query_blind: bool = False,
    ) -> None:
        super().__init__()
        self.texture = texture
        self.knowing = knowing
        self.balancer = balancer
        self.allocator = allocator
        self.query_blind = query_blind
        # A cell looks as it does wherever it stands, and whatever was there before.
        channels = getattr(texture, "channels", ())
        self.looks = [i for i, row in enumerate(channels) if row.group not in LOOKLESS]
        self.null_query = nn.Parameter(torch.randn(query_dim))

    # Private by name, but the one place that every cast passes through (to, half, bfloat16).
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RelevanceRealizer:
        def moved(value: Tensor) -> Tensor:
            changed = fn(value)
            return changed if changed.dtype == value.dtype else value.to(changed.device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(
        self,
        images_I3hw: Tensor | None,
        query_ILD: Tensor,
        mask_IL: Tensor,
        textures_ICHW: Tensor | None = None,
        previous: Previous | None = None,
    ) -> Realization:
        """Find what is relevant in images of one size.

        Args:
            images_I3hw: RGB in [0, 1]; may be None where `textures_ICHW` is given.
            query_ILD: embeddings of each image's question.
            mask_IL: True at the question's own tokens. A row without any asks the learned null
                query: relevance regardless of the question.
            textures_ICHW: textures made before, instead of measuring the images.
            previous: the frame or turn before; None for a first one.

        Raises:
            ValueError: neither images nor textures were given, or `previous` beside textures
                made before, of another size, or where no channel tells of it.
        """
        if textures_ICHW is None:
            textures_ICHW = self.measure(given_images(images_I3hw), previous)
        elif previous is not None:
            raise ValueError(
                "`previous` is measured with the images, but their textures were given. Leave "
                "`textures` out, or measure them with `arr_coc.measure(images, previous)`."
            )
        if self.query_blind:
            query_ILD, mask_IL = query_ILD[:, :0], mask_IL[:, :0]
        query_ILD, mask_IL = self._with_null(query_ILD.float(), mask_IL)
        logits_ISHW = self.knowing(textures_ICHW.float(), query_ILD, mask_IL).float()
        tensions_IT = self.balancer(logits_ISHW, textures_ICHW, query_ILD, mask_IL)
        heard = getattr(self.knowing, "scorers", Knowing.NAMES)
        relevance_IHW = balance(logits_ISHW, tensions_IT, heard)
        looks = standardised(textures_ICHW.float())[:, self.looks] if self.looks else None
        found = Realization(textures_ICHW, logits_ISHW.sigmoid(), tensions_IT, relevance_IHW, looks)
        if not isinstance(self.texture, TextureGenerator):
            return found
        seen = self.texture.remember(images_I3hw, textures_ICHW, found.relevance)
        return found._replace(seen=seen)

    def measure(self, images_I3hw: Tensor, previous: Previous | None = None) -> Tensor:
        """Textures of images of one size ``(I, C, H, W)``.

        Raises:
            ValueError: `previous` is of another size, or no channel tells of it.
        """
        if previous is not None and not getattr(self.texture, "remembers", False):
            raise ValueError(
                "`previous` was given, but no texture channel tells of it: expected motion, "
                "previous_saliency or previous_relevance. Compose the model with "
                "model.arr_coc.texture.channels=full, or leave `previous` out."
            )
        known = () if previous is None else (previous,)
        textures_ICHW: Tensor = self.texture(images_I3hw, *known)
        return textures_ICHW

    def _with_null(self, query_ILD: Tensor, mask_IL: Tensor) -> tuple[Tensor, Tensor]:
        """Put the null query before each question; it is heard only where nothing was asked."""
        null = self.null_query.float().expand(query_ILD.shape[0], 1, -1)
        nothing = ~mask_IL.any(-1, keepdim=True)
        return torch.cat([null, query_ILD], 1), torch.cat([nothing, mask_IL], 1)


def given_images(images_I3hw: Tensor | None) -> Tensor:
    """The images themselves.

    Raises:
        ValueError: there are none.
    """
    if images_I3hw is None:
        raise ValueError("Neither images nor textures were given.")
    return images_I3hw


def build_realizer(
    query_dim: int,
    texture: TextureGenerator | None = None,
    knowing: nn.Module | Callable[..., nn.Module] = Knowing,
    balancer: nn.Module | Callable[..., nn.Module] = AdaptiveTensions,
    allocator: TokenAllocator | None = None,
    query_blind: bool = False,
) -> RelevanceRealizer:
    """Fit the parts to one backbone.

    Args:
        query_dim: width of the backbone's token embeddings.
        texture: None takes the core channels.
        knowing: a module, or what makes one from `query_dim` and the texture's `channels` table.
        balancer: a module, or what makes one from `query_dim` and the number of `channels`.
        allocator: None takes the default one.
        query_blind: do not hear the question.
    """
    texture = texture or TextureGenerator()
    if not isinstance(knowing, nn.Module):
        knowing = knowing(query_dim=query_dim, channels=texture.channels)
    if not isinstance(balancer, nn.Module):
        balancer = balancer(query_dim=query_dim, channels=texture.out_channels)
    return RelevanceRealizer(
        texture, knowing, balancer, allocator or TokenAllocator(), query_dim, query_blind
    )
