"""The command `ask`: a picture and a question, two words, and the answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from PIL import Image

from lightning_arrcoc.ask_words import USAGE
from lightning_arrcoc.contest import decode_answers
from lightning_arrcoc.data.images import open_image
from lightning_arrcoc.named_checkpoint import trained_source
from lightning_arrcoc.trained import load_trained, options_of
from lightning_arrcoc.vlm import ArrCocQwen3VL

RUNS = Path("outputs/fit")
LAST = "*/checkpoints/last.ckpt"


def check_question(config: DictConfig) -> None:
    """Whether there is something to ask.

    Raises:
        ValueError: there is not.
    """
    if config.image is None or not (config.question or "").strip():
        raise ValueError(f"ask lacks a picture or a question. {USAGE}.")


def newest_run(runs: Path = RUNS) -> Path | None:
    """The last checkpoint of the run that was saved last, if there is any."""
    return max(runs.glob(LAST), key=lambda path: path.stat().st_mtime_ns, default=None)


def ask(config: DictConfig) -> int:
    """Print the answer, and on stderr what it was read from.

    Where there is no checkpoint, the backbone answers by itself, from all tokens unless a budget is
    asked for, which an untrained ARR-COC spends.
    """
    check_question(config)
    newest = None if config.ckpt is not None else newest_run()
    named = config.ckpt if newest is None else str(newest)
    checkpoint = None if named is None else trained_source(named)
    image = open_image(config.image)
    options = options_of(config, list(HydraConfig.get().overrides.task), checkpoint)
    torch.manual_seed(config.seed)
    if checkpoint is None:
        model = ArrCocQwen3VL.from_pretrained(**options).eval()
        budget = 1.0 if config.budget is None else config.budget
        by = f"no checkpoint in {RUNS}, so an untrained ARR-COC" if budget != 1.0 else (
            f"no checkpoint in {RUNS}, so the backbone alone")  # fmt: skip
    else:
        model, budget, by = load_trained(checkpoint, **options), config.budget, checkpoint
    words, tokens, cells = answered(model, image, config.question, budget, config.max_new_tokens)
    print(words)
    print(f"{tokens} of {cells} visual tokens; {by}", file=sys.stderr)
    return 0


def answered(
    model: ArrCocQwen3VL, image: Image.Image, question: str, budget: Any, max_new_tokens: int
) -> tuple[str, int, int]:
    """The answer, how many tokens it was read from, and how many there were."""
    assert model.processor is not None
    prompts: dict[str, Any] = model.processor(
        [{"images": [image], "questions": [question], "answers": []}]
    )
    output = model.generate(
        **prompts, budget=budget, max_new_tokens=max_new_tokens, do_sample=False
    )
    (words,), (allocation,) = decode_answers(model, output, prompts), output.allocation or []
    return words.strip(), len(allocation.levels), allocation.relevance.numel()
