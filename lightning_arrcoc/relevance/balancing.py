"""Step 3: score maps and context -> three tensions, and one relevance map.

The tensions lie in [0, 1]:

* exploit (1) against explore (0): the question's match against what the image itself offers.
* compress (1) against particularize (0): many coarse tokens against few fine ones.
* focus (1) against diversify (0): whether look-alikes of a chosen cell stay as attractive.

Exploit acts here, compress and focus in the allocator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_arrcoc.relevance.knowing import Knowing, masked_mean, zeroed

TENSIONS = ("exploit", "compress", "focus")
# Exploit learns. The others were chosen on 400 validation canvases of the embedded backbone: more
# compression answers a little better at a tenth of the tokens, and worse at a twentieth.
START = (0.5, 0.77, 0.3)
START_MARGIN = 0.01  # a tension that starts at 0 or 1 could never leave it


def _tensions(exploit: float, compress: float, focus: float) -> Tensor:
    for name, value in zip(TENSIONS, (exploit, compress, focus), strict=True):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value}; a tension lies in 0 to 1.")
    return torch.tensor([float(exploit), float(compress), float(focus)])


class FixedTensions(nn.Module):
    """The same tensions for every image and question.

    Args:
        exploit, compress, focus: each in [0, 1].

    Raises:
        ValueError: one lies outside.
    """

    values: Tensor

    def __init__(
        self, exploit: float = START[0], compress: float = START[1], focus: float = START[2]
    ) -> None:
        super().__init__()
        self.register_buffer("values", _tensions(exploit, compress, focus))

    def forward(
        self, logits_ISHW: Tensor, textures_ICHW: Tensor, query_ILD: Tensor, mask_IL: Tensor
    ) -> Tensor:
        """Tensions ``(I, T)``, fp32."""
        return self.values.float().expand(logits_ISHW.shape[0], -1)


class AdaptiveTensions(nn.Module):
    """Tensions chosen for each image and question by a small network, in fp32.

    It sees the mean question token, statistics of each score map (mean, maximum, standard
    deviation, means of the four quadrants) and the mean texture.

    Args:
        query_dim: width of the question's token embeddings.
        channels: number of texture channels.
        width: hidden units.
        exploit, compress, focus: where they start, each in [0, 1].

    Raises:
        ValueError: a start lies outside.
    """

    STATISTICS = 7

    def __init__(
        self,
        query_dim: int,
        channels: int,
        width: int = 64,
        exploit: float = START[0],
        compress: float = START[1],
        focus: float = START[2],
    ) -> None:
        super().__init__()
        seen = query_dim + 3 * self.STATISTICS + channels
        self.norm = nn.LayerNorm(query_dim)
        last = zeroed(nn.Linear(width, len(TENSIONS)))
        with torch.no_grad():
            last.bias.copy_(_tensions(exploit, compress, focus).logit(eps=START_MARGIN))
        self.policy_net = nn.Sequential(nn.Linear(seen, width), nn.GELU(), last)

    def forward(
        self, logits_ISHW: Tensor, textures_ICHW: Tensor, query_ILD: Tensor, mask_IL: Tensor
    ) -> Tensor:
        """Tensions ``(I, T)``, fp32."""
        with torch.autocast(logits_ISHW.device.type, enabled=False):
            seen = torch.cat(
                [
                    masked_mean(self.norm(query_ILD.float()), mask_IL),
                    statistics(logits_ISHW.float().sigmoid()).flatten(1),
                    textures_ICHW.float().mean((2, 3)),
                ],
                dim=-1,
            )
            tensions: Tensor = self.policy_net(seen).sigmoid()
        return tensions


def statistics(scores_ISHW: Tensor) -> Tensor:
    """Mean, maximum, standard deviation and quadrant means of each map: ``(I, S, 7)``.

    A map one cell high or wide has its single row or column in both halves.
    """
    rows, columns = scores_ISHW.shape[-2:]
    middle, centre = rows // 2, columns // 2  # of whole numbers above 0: ONNX rounds towards zero
    upper, lower = scores_ISHW[..., : rows - middle, :], scores_ISHW[..., middle:, :]
    quadrants = [
        part.mean((-2, -1))
        for half in (upper, lower)
        for part in (half[..., : columns - centre], half[..., centre:])
    ]
    flat = scores_ISHW.flatten(2)
    whole = [flat.mean(-1), flat.amax(-1), flat.std(-1, correction=0)]
    return torch.stack(whole + quadrants, dim=-1)


def balance(
    logits_ISHW: Tensor, tensions_IT: Tensor, scorers: Sequence[str] = Knowing.NAMES
) -> Tensor:
    """One relevance map from three score maps, as logits ``(I, H, W)``.

    Exploit weighs the question's match against the mean of the two others. Opinions are pooled
    in log-odds, where a confident scorer outweighs an undecided one. A scorer that is not heard
    weighs nothing: where one side has none left, the other has all the weight, whatever exploit
    says.

    Args:
        logits_ISHW: as `Knowing` gives them, 0 for scorers that are not heard.
        tensions_IT: exploit, compress, focus.
        scorers: names of those that are heard.

    Source: C. Genest, J. Zidek, "Combining probability distributions", Statistical Science 1986,
    section 3 (logarithmic opinion pool). Departure: the weights add up to 2, so that two scorers
    that agree are surer than each alone.
    """
    information, perspectival, participatory = logits_ISHW.unbind(1)
    exploit = tensions_IT[:, 0, None, None].to(logits_ISHW.dtype)
    on_sight = len({"information", "perspectival"} & set(scorers))
    if not on_sight or "participatory" not in scorers:
        # Kept in the graph, because DDP waits for the gradient of every weight.
        exploit = 0 * exploit + float(not on_sight)
    merit = (information + perspectival) / max(1, on_sight)
    return 2 * (exploit * participatory + (1 - exploit) * merit)
