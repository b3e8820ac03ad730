"""Where a backbone comes from: the embedded one, a folder or a hub id, all by one path."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from packaging.version import Version
from transformers import AutoConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

TINY = "tiny"
TINY_FOLDER = Path(__file__).parent / "tiny"
OLDEST, FIRST_UNTRIED = Version("5.18"), Version("6")
MODEL_TYPE = "qwen3_vl"


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
    is_hub_id = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if not is_hub_id:
        raise FileNotFoundError(
            f"No backbone {name!r}. Expected 'tiny', a folder with a Qwen3-VL, or a hub id such "
            "as 'Qwen/Qwen3-VL-2B-Instruct'."
        )
    return name


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
        random_weights: draw fresh weights and read only the configuration.

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
        config._attn_implementation = attn_implementation
        kind = torch.float32 if dtype == "auto" else dtype
        return Qwen3VLForConditionalGeneration._from_config(config, dtype=kind).eval()
    model: Qwen3VLForConditionalGeneration = Qwen3VLForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, attn_implementation=attn_implementation, use_safetensors=True
    )
    return model.eval()
