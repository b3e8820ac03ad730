"""Maps over an image's cells, and tensions as bars."""

from __future__ import annotations

from typing import Literal, NamedTuple

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from PIL import Image
from torch import Tensor

from lightning_arrcoc.pictures.kept import cell_aspect
from lightning_arrcoc.relevance.textures import Channel

OTHER_ENDS = {"exploit": "explore", "compress": "particularize", "focus": "diversify"}
BAR, TRACK = "#455a64", "#eceff1"


class Scale(NamedTuple):
    """Which colours stand for which values; beyond the ends as at the ends."""

    low: float
    high: float
    colours: str


SCORE_SCALE = Scale(0, 1, "magma")


def channel_scale(channel: Channel) -> Scale:
    """The table's range; where it has two signs, with zero in the middle of two hues."""
    if channel.low < 0 < channel.high:
        most = max(-channel.low, channel.high)
        return Scale(-most, most, "RdBu_r")
    return Scale(channel.low, channel.high, "viridis")


def draw_scale(axes: Axes, scale: Scale, orientation: Literal["vertical", "horizontal"]) -> None:
    """A colour bar."""
    axes.figure.colorbar(
        ScalarMappable(Normalize(scale.low, scale.high), colormaps[scale.colours]),
        cax=axes, orientation=orientation,
        ticks=[scale.low, (scale.low + scale.high) / 2, scale.high],
    )  # fmt: skip
    axes.tick_params(labelsize=7.5, length=2, pad=2)


def draw_map(axes: Axes, values_HW: Tensor, scale: Scale, image: Image.Image) -> None:
    """One value a cell, in the image's proportions."""
    rows, columns = values_HW.shape
    axes.set_xticks([])
    axes.set_yticks([])
    axes.imshow(
        values_HW.detach().float().cpu().numpy(), cmap=scale.colours, vmin=scale.low,
        vmax=scale.high, aspect=cell_aspect(image, rows, columns), interpolation="nearest",
    )  # fmt: skip


def draw_score(axes: Axes, values_HW: Tensor, name: str, image: Image.Image) -> None:
    """A map of scores in [0, 1], under its name and the values found."""
    draw_map(axes, values_HW, SCORE_SCALE, image)
    _entitle(axes, name, found(values_HW), 11)


def draw_channel(axes: Axes, values_HW: Tensor, channel: Channel, image: Image.Image) -> None:
    """A texture channel under its name, its group and the values found."""
    draw_map(axes, values_HW, channel_scale(channel), image)
    _entitle(axes, channel.name, f"{channel.group}  {found(values_HW)}", 9)


def found(values_HW: Tensor) -> str:
    """Smallest and largest value, because a full scale shows little of small differences."""
    ends = (round(float(end), 2) for end in values_HW.detach().aminmax())
    return " to ".join(f"{end + 0.0:.2f}" for end in ends)  # + 0.0 turns minus zero into zero


def _entitle(axes: Axes, name: str, below: str, size_pt: float) -> None:
    axes.set_title(below, fontsize=7.5, pad=3, color="#616161")
    axes.annotate(
        name, (0.5, 1), (0, 13), xycoords="axes fraction", textcoords="offset points",
        ha="center", va="bottom", fontsize=size_pt, weight="bold", annotation_clip=False,
    )  # fmt: skip


def draw_tension(axes: Axes, name: str, value: float) -> None:
    """A tension as a bar from its one end, 0, towards the other, 1."""
    axes.barh(0, 1, color=TRACK, height=1)
    axes.barh(0, value, color=BAR, height=1)
    axes.axvline(0.5, color="white", linewidth=1)
    inside = value > 0.8  # where no room is left beside the bar
    axes.text(
        value + (-0.02 if inside else 0.02), 0, f"{value:.2f}", fontsize=10, va="center",
        ha="right" if inside else "left", color="white" if inside else BAR,
    )  # fmt: skip
    for x, end, side in ((-0.02, OTHER_ENDS[name], "right"), (1.02, name, "left")):
        axes.text(x, 0, end, fontsize=10, va="center", ha=side)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.5, 0.5)
    axes.set_axis_off()
