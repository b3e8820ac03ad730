"""The command `predict`: answers about one picture, or about the test split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightning_arrcoc.assembling import Parts, assemble, say
from lightning_arrcoc.atomic import write_atomically
from lightning_arrcoc.data.images import open_image
from lightning_arrcoc.data.sample import Sample, Turn
from lightning_arrcoc.loggers.pictures import log_picture
from lightning_arrcoc.named_checkpoint import existing_checkpoint
from lightning_arrcoc.pictures import (
    Answered,
    Explained,
    Explaining,
    draw_answers,
    draw_explained,
    save_figure,
)


def predict(config: DictConfig) -> int:
    """Answer about the user's picture, or about the test split."""
    checkpoint = existing_checkpoint(config.ckpt)
    if (config.image is None) != (config.question is None):
        raise ValueError(
            "predict needs a picture and a question together: "
            'image=photo.png question="What is in the picture?"; with neither it takes the test '
            "split."
        )
    if config.image is None:
        return predict_split(assemble(config), config, checkpoint)
    if not config.question.strip():
        raise ValueError('The question is empty; ask one: question="Which digit is red?".')
    sample = Sample((open_image(config.image),), (Turn(config.question, ""),))
    parts = assemble(config)
    refuse_several_processes(parts)
    parts.datamodule.test, parts.datamodule.num_workers = [sample], 0
    explaining = explain_first(parts, 1) if config.explain else None
    batches = parts.trainer.predict(
        parts.module, parts.datamodule, ckpt_path=checkpoint, weights_only=True
    )
    found: dict[str, Any] = (batches or [])[0][0]
    allocation = found["allocations"][0]
    answered = Answered(sample.images[0], config.question, found["answer"], None, allocation)
    picture = parts.folder / "prediction.png"
    save_figure(draw_answers([answered], "Bright cells are kept, dark ones dropped"), picture)
    log_picture(parts.trainer, "predict/prediction", picture)
    print(f"answer:  {found['answer']}")
    print(f"tokens:  {len(allocation.levels)} of {allocation.relevance.numel()}")
    print(f"picture: {picture}")
    if explaining is not None:
        ((explained,),) = explaining.explained
        sheet = parts.folder / "explained.png"
        save_figure(draw_explained(explained), sheet)
        log_picture(parts.trainer, "predict/explained", sheet)
        print(f"sheet:   {sheet}")
    return 0


def predict_split(parts: Parts, config: DictConfig, checkpoint: str) -> int:
    """Write an answer a line for the whole test split, and sheets about the first ones."""
    refuse_several_processes(parts)
    explaining = explain_first(parts, config.explain_samples) if config.explain else None
    batches = parts.trainer.predict(
        parts.module, parts.datamodule, ckpt_path=checkpoint, weights_only=True
    )
    lines = [
        json.dumps(
            {
                "answer": item["answer"],
                "truth": item["truth"],
                "tokens": sum(len(a.levels) for a in item["allocations"]),
                "of": sum(a.relevance.numel() for a in item["allocations"]),
            }
        )
        for batch in batches or []
        for item in batch
    ]
    target = parts.folder / "predictions.jsonl"
    write_atomically(target, lambda file: file.write("\n".join([*lines, ""]).encode()))
    say(parts.trainer, f"{len(lines)} answers: {target}")
    if explaining is not None:
        folder = parts.folder / "explained"
        sheets = write_sheets(explaining.explained, folder)
        for sheet in sheets:
            log_picture(parts.trainer, f"predict/explained/{sheet.stem}", sheet)
        say(parts.trainer, f"{len(sheets)} sheets: {folder}")
    return 0


def explain_first(parts: Parts, samples: int) -> Explaining:
    """Have the first predictions explained, those of the run itself."""
    explaining = Explaining(parts.module.model, parts.datamodule.test or [], samples)
    parts.trainer.callbacks.append(explaining)  # type: ignore[attr-defined]  # set out of its sight
    return explaining


def write_sheets(explained: Sequence[Sequence[Explained]], folder: Path) -> list[Path]:
    """Write a sheet an image.

    A name begins with the line of predictions.jsonl; images of one line are told apart by -1, -2.
    """
    sheets: list[Path] = []
    for line, images in enumerate(explained, start=1):
        for number, image in enumerate(images, start=1):
            name = f"{line:04d}-{number}.png" if len(images) > 1 else f"{line:04d}.png"
            save_figure(draw_explained(image), folder / name)
            sheets.append(folder / name)
    return sheets


def refuse_several_processes(parts: Parts) -> None:
    """Predictions are gathered on one process only."""
    if parts.trainer.world_size > 1:
        raise ValueError("predict writes one file; run it with trainer.devices=1.")
