"""Where a backbone comes from: the embedded one, a folder or a hub id, all by one path."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import transformers
from packaging.version import Version
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

TINY = "tiny"
TINY_FOLDER = Path(__file__).parent / "tiny"
OLDEST, FIRST_UNTRIED = Version("5.18"), Version("6")
MODEL_TYPE = "qwen3_vl"
SLOWDOWN = 30.0  # the grid holds a whole period of the fastest wave and this part of the slowest
POSITION_RMS = 2.0


def require_transformers(version: str = transformers.__version__) -> None:
    """Refuse a transformers that would lose the image without a word.

    Raises:
        ImportError: the version is outside 5.18 to 6.
    """
    if not OLDEST <= Version(version) < FIRST_UNTRIED:
        raise ImportError(
            f"transformers {version} is installed; expected >={OLDEST},<{FIRST_UNTRIED}. Versions "
            "before 5.18 accept features made outside the model and silently ignore them, so it "
            "would answer without having seen the image. "
            f'Run: pip install "transformers>={OLDEST},<{FIRST_UNTRIED}"'
        )


def refuse_flash(backbone: Qwen3VLForConditionalGeneration, reason: str) -> None:
    """Refuse flash attention, which takes no mask of its own.

    Raises:
        ValueError: the backbone was loaded with it.
    """
    # Private by name; transformers offers no other way to ask how attention is computed.
    if "flash" in str(backbone.config.text_config._attn_implementation):
        raise ValueError(
            f"{reason}, which flash attention cannot take. Load the backbone with "
            "attn_implementation='sdpa'."
        )


def hide_progress_bars() -> None:
    """Keep transformers from drawing a bar for every file it loads."""
    transformers.utils.logging.disable_progress_bar()


def locate(name: str) -> str:
    """What transformers is asked to load: a folder that exists, or a hub id.

    Args:
        name: "tiny", a folder, or a hub id such as "Qwen/Qwen3-VL-2B-Instruct".

    Raises:
        FileNotFoundError: it is neither a folder nor has the form of a hub id.
    """
    if name == TINY:
        return str(TINY_FOLDER)
    if Path(name).is_dir():
        return name
    if not is_hub_id(name):
        raise FileNotFoundError(
            f"No backbone {name!r}. Expected 'tiny', a folder with a Qwen3-VL, or a hub id such "
            "as 'Qwen/Qwen3-VL-2B-Instruct'."
        )
    return name


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of one, such as "Qwen/Qwen3-VL-2B-Instruct"."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def most_positions(name: str) -> int:
    """Tokens that a backbone's language model tells apart, prompt and answer together."""
    config = AutoConfig.from_pretrained(locate(name), trust_remote_code=False)
    return int(config.get_text_config().max_position_embeddings)


def load_backbone(
    name: str,
    *,
    dtype: str | torch.dtype = "auto",
    attn_implementation: str = "sdpa",
    random_weights: bool = False,
) -> Qwen3VLForConditionalGeneration:
    """Load a stock Qwen3-VL from safetensors, in eval mode.

    Args:
        name: as for `locate`.
        dtype: of the parameters; "auto" keeps what the files hold.
        attn_implementation: of vision tower and language model.
        random_weights: draw fresh weights and read only the configuration; positions are laid
            out as `lay_out_positions` says.

    Raises:
        ImportError: transformers is too old.
        FileNotFoundError: no such backbone.
        ValueError: it is another architecture.
    """
    require_transformers()
    folder = locate(name)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if not isinstance(config, Qwen3VLConfig) or config.model_type != MODEL_TYPE:
        raise ValueError(
            f"{name!r} is a {config.model_type!r} model; expected {MODEL_TYPE!r}, for instance "
            "Qwen/Qwen3-VL-2B-Instruct."
        )
    if random_weights:
        fresh: Qwen3VLForConditionalGeneration = AutoModelForImageTextToText.from_config(
            config,
            dtype=torch.float32 if dtype == "auto" else dtype,
            attn_implementation=attn_implementation,
        )
        lay_out_positions(fresh.model.visual.pos_embed.weight)
        return fresh.eval()
    try:
        model: Qwen3VLForConditionalGeneration = Qwen3VLForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, attn_implementation=attn_implementation, use_safetensors=True
        )
    except SafetensorError as error:
        raise ValueError(
            f"The weights of {name!r} are damaged ({error}); fetch them anew."
        ) from error
    return model.eval()


@torch.no_grad()
def lay_out_positions(embedding_PD: Tensor) -> None:
    """Start a square grid of position embeddings as sines and cosines of row and column, in place.

    Drawn at `initializer_range`, positions are thirty times weaker than the patches they are added
    to, and a small vision tower does not find them in thousands of steps.

    Raises:
        ValueError: the grid is not square.

    Source: He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022, section 3
    (sine-cosine positions); period and strength are our own.
    """
    places, width = embedding_PD.shape
    side, waves = math.isqrt(places), width // 4
    if side * side != places:
        raise ValueError(f"{places} position embeddings are no square grid, as Qwen3-VL's are.")
    angle = 2 * math.pi * torch.linspace(0, 1, side, device=embedding_PD.device)
    exponent = torch.arange(waves, device=embedding_PD.device) / max(1, waves - 1)
    phases = angle[:, None] * SLOWDOWN**-exponent
    axis = torch.cat([phases.sin(), phases.cos()], dim=1)
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None].expand(side, side, -1)
    grid = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    grid = grid - grid.mean(0)
    embedding_PD[:, : 4 * waves] = (POSITION_RMS * grid / grid.square().mean().sqrt()).to(
        embedding_PD.dtype
    )
