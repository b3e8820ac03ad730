"""Step 2: textures and question -> three score maps, one for each way of knowing a cell.

Each scorer answers with logits ``(I, H, W)``; the score is their sigmoid, in [0, 1]. A scorer is a
closed-form prior plus a learned residual whose last layer starts at zero, so that the first step
already chooses sensibly. Priors read the textures as they are; residuals read how a cell differs
from its own image (`standardised`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_arrcoc.relevance.textures import CORE, Channel

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)
# A prior of exactly 0 or 1 could never be outweighed by what is learned.
PRIOR_MARGIN = 0.01
FLATNESS = 1e-4  # variance of a texture channel below which it counts as noise


class InformationScorer(nn.Module):
    """Propositional knowing: how much there is to say about a cell, whoever asks.

    Prior: mean of the detail channels that the table has (entropy, contrast, high_pass); even
    odds where it has none.
    """

    DETAIL = ("entropy", "contrast", "high_pass")

    def __init__(self, channels: tuple[Channel, ...], width: int = 256) -> None:
        super().__init__()
        names = [channel.name for channel in channels]
        self.detail = [names.index(name) for name in self.DETAIL if name in names]
        self.residual = nn.Sequential(
            nn.Linear(len(channels), width), nn.GELU(), zeroed(nn.Linear(width, 1))
        )

    def forward(self, textures_ICHW: Tensor) -> Tensor:
        residual: Tensor = self.residual(standardised(textures_ICHW).movedim(1, -1))
        if not self.detail:
            return residual[..., 0]
        return prior_logit(textures_ICHW[:, self.detail].mean(1)) + residual[..., 0]


class PerspectivalScorer(nn.Module):
    """Perspectival knowing: what stands out from where the viewer stands.

    Prior: saliency x (1 - 0.5 eccentricity), a foveal weight; saliency alone where the table has
    no eccentricity, even odds where it has no saliency.
    """

    def __init__(self, channels: tuple[Channel, ...], width: int = 32) -> None:
        super().__init__()
        self.channels = [channel.name for channel in channels]
        self.residual = nn.Sequential(
            nn.Conv2d(len(channels), width, 3, padding=1),
            nn.GELU(),
            zeroed(nn.Conv2d(width, 1, 1)),
        )

    def forward(self, textures_ICHW: Tensor) -> Tensor:
        residual: Tensor = self.residual(standardised(textures_ICHW))
        if "saliency" not in self.channels:
            return residual[:, 0]
        prior = textures_ICHW[:, self.channels.index("saliency")]
        if "eccentricity" in self.channels:
            prior = prior * (1 - 0.5 * textures_ICHW[:, self.channels.index("eccentricity")])
        return prior_logit(prior) + residual[:, 0]


class ParticipatoryScorer(nn.Module):
    """Participatory knowing: how well a cell answers to the question.

    Late interaction: each cell takes its best match over the question's tokens, softly, weighted by
    learned token importance. Tokens are put in context by the question's mean, so that "top" and
    "left" can mean a corner together; a cell is described together with the two around it on every
    side, because what is asked for seldom fits into one. There is no prior: nothing in closed form
    relates the word "red" to the colour, so the untrained score is 0.5 everywhere.

    Source: O. Khattab, M. Zaharia, "ColBERT: Efficient and effective passage search via
    contextualized late interaction over BERT", SIGIR 2020, section 3.3. Departures: the maximum is
    over question tokens for each cell, not over cells for each token, and it is soft
    (log-sum-exp), so that every token learns; learned importance.
    """

    def __init__(
        self, channels: tuple[Channel, ...], query_dim: int, width: int = 128, dim: int = 64
    ) -> None:
        super().__init__()
        self.cells = nn.Sequential(
            nn.Conv2d(len(channels), width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            zeroed(nn.Conv2d(width, dim + 1, 1)),
        )
        self.norm = nn.LayerNorm(query_dim)
        self.tokens = nn.Sequential(
            nn.Linear(2 * query_dim, width), nn.GELU(), nn.Linear(width, dim + 1)
        )
        self.dim = dim

    def forward(self, textures_ICHW: Tensor, query_ILD: Tensor, mask_IL: Tensor) -> Tensor:
        described: Tensor = self.cells(standardised(textures_ICHW)).flatten(2)
        cells_IDN, regardless_IN = described[:, :-1], described[:, -1]
        query_ILD = self.norm(query_ILD)
        context_I1D = masked_mean(query_ILD, mask_IL)[:, None].expand_as(query_ILD)
        tokens_ILD = self.tokens(torch.cat([query_ILD, context_I1D], -1))
        importance_IL = tokens_ILD[..., -1].masked_fill(~mask_IL, -torch.inf).log_softmax(-1)
        # Of unit variance: cells start at zero, so at first they learn as fast as tokens are long.
        match_ILN = F.layer_norm(tokens_ILD[..., :-1], (self.dim,)) @ cells_IDN
        best_IN: Tensor = (match_ILN + importance_IL[..., None]).logsumexp(1)
        return (best_IN + regardless_IN).view_as(textures_ICHW[:, 0])


class Knowing(nn.Module):
    """The three scorers side by side.

    Args:
        query_dim: width of the question's token embeddings.
        channels: the texture table that the cells are described by.
        scorers: names of those that are heard. One left out has no weights and answers with even
            odds everywhere; with the same seed the others start as they would beside it.

    Attributes:
        scorers: the names, in the order of `NAMES`.

    Raises:
        ValueError: a name that is none of `NAMES`, or no name at all.
    """

    NAMES = ("information", "perspectival", "participatory")

    def __init__(
        self,
        query_dim: int,
        channels: tuple[Channel, ...] = CORE,
        scorers: Sequence[str] = NAMES,
    ) -> None:
        super().__init__()
        if not scorers or set(scorers) - set(self.NAMES):
            raise ValueError(
                f"scorers={list(scorers)}; choose one or more of {', '.join(self.NAMES)}."
            )
        self.scorers = tuple(name for name in self.NAMES if name in scorers)
        drawn = (
            InformationScorer(channels),
            PerspectivalScorer(channels),
            ParticipatoryScorer(channels, query_dim),
        )
        self.info_scorer, self.persp_scorer, self.partic_scorer = (
            scorer if name in self.scorers else None
            for name, scorer in zip(self.NAMES, drawn, strict=True)
        )

    def forward(self, textures_ICHW: Tensor, query_ILD: Tensor, mask_IL: Tensor) -> Tensor:
        """Score every cell.

        Args:
            textures_ICHW: as the texture generator gives them.
            query_ILD: token embeddings; at least one token of each question is real.
            mask_IL: True at the real tokens.

        Returns:
            Logits ``(I, S, H, W)``, S in the order of `NAMES`.
        """
        information = perspectival = participatory = torch.zeros_like(textures_ICHW[:, 0])
        if self.info_scorer is not None:
            information = self.info_scorer(textures_ICHW)
        if self.persp_scorer is not None:
            perspectival = self.persp_scorer(textures_ICHW)
        if self.partic_scorer is not None:
            participatory = self.partic_scorer(textures_ICHW, query_ILD, mask_IL)
        return torch.stack([information, perspectival, participatory], dim=1)


def prior_logit(prior: Tensor) -> Tensor:
    """Log-odds of a value in [0, 1], kept finite."""
    return torch.logit(prior.clamp(PRIOR_MARGIN, 1 - PRIOR_MARGIN))


def standardised(textures_ICHW: Tensor) -> Tensor:
    """Each channel of each image with mean 0 and variance 1 over its own cells.

    What is asked for stands out from its image by little: a digit on dark ground moves a cell's
    mean colour by a tenth. Channels that are flat stay so.
    """
    centred = textures_ICHW - textures_ICHW.mean((2, 3), keepdim=True)
    variance = centred.square().mean((2, 3), keepdim=True)
    scaled: Tensor = centred * (variance + FLATNESS).rsqrt()
    return scaled


def masked_mean(values_ILD: Tensor, mask_IL: Tensor) -> Tensor:
    """Mean over the tokens that the mask marks: ``(I, D)``."""
    weight = F.normalize(mask_IL.to(values_ILD.dtype), p=1, dim=-1)
    return torch.einsum("il,ild->id", weight, values_ILD)


def zeroed(layer: Layer) -> Layer:
    """A layer that starts by answering zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
