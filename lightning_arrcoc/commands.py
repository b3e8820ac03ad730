"""The commands, a function each; those that train and measure stand here."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from omegaconf import DictConfig
from rich.table import Table

from lightning_arrcoc.ask_command import ask as ask
from lightning_arrcoc.assembling import Parts, assemble, say
from lightning_arrcoc.atomic import write_atomically
from lightning_arrcoc.cache_command import cache as cache
from lightning_arrcoc.callbacks.checkpointing.resuming import LAST_VERIFIED
from lightning_arrcoc.compare.page.command import compare as compare
from lightning_arrcoc.contest import results_table
from lightning_arrcoc.data.collate import Collator
from lightning_arrcoc.doctor import examine as doctor  # noqa: F401
from lightning_arrcoc.export.command import export as export
from lightning_arrcoc.loggers.pictures import log_picture
from lightning_arrcoc.module import ArrCocModule
from lightning_arrcoc.named_checkpoint import RESUMED, existing_checkpoint
from lightning_arrcoc.pictures import Answered, draw_answers, save_figure
from lightning_arrcoc.predict_command import predict as predict
from lightning_arrcoc.serve.command import serve as serve
from lightning_arrcoc.vlm.lora import has_lora, save_lora


def fit(config: DictConfig) -> int:
    """Train; then compare on the test split and draw what is kept."""
    if config.ckpt is not None and config.weights is not None:
        raise ValueError("ckpt= goes on with a run, weights= begins a new one; name one of them.")
    checkpoint = config.ckpt
    if checkpoint is not None and Path(checkpoint).name != LAST_VERIFIED:  # that one is yet to find
        checkpoint = existing_checkpoint(checkpoint, RESUMED)
    weights = None if config.weights is None else existing_checkpoint(config.weights)
    parts = assemble(config)
    if weights is not None:
        parts.module.start_from(torch.load(weights, map_location="cpu", weights_only=True))
    say(parts.trainer, trained_words(parts.module))
    parts.trainer.fit(parts.module, parts.datamodule, ckpt_path=checkpoint, weights_only=True)
    if not config.trainer.get("fast_dev_run"):
        # Lightning's callbacks save at validations; what is measured below are the last weights.
        # Saved with all that a resumed run needs; loading is always with weights_only=True.
        last = parts.folder / "checkpoints" / "last.ckpt"
        parts.trainer.save_checkpoint(last, weights_only=False)
        if has_lora(parts.module.model.backbone) and parts.trainer.is_global_zero:
            save_lora(parts.module.model.backbone, last.parent / "adapter")
    if parts.datamodule.test is not None and not config.trainer.get("fast_dev_run"):
        hold_contest(parts, config)
    return 0


def validate(config: DictConfig) -> int:
    """Measure a checkpoint at the model's own budget."""
    checkpoint = existing_checkpoint(config.ckpt)
    parts = assemble(config)
    found = parts.trainer.validate(
        parts.module, parts.datamodule, ckpt_path=checkpoint, verbose=False, weights_only=True
    )
    table = Table("measured", "value", title="Validation", title_justify="left")
    for name, value in found[0].items():
        table.add_row(name, f"{value:.4f}")
    say(parts.trainer, table)
    return 0


def test(config: DictConfig) -> int:
    """Compare a checkpoint with full, random and downsampled tokens."""
    checkpoint = existing_checkpoint(config.ckpt)
    hold_contest(assemble(config), config, checkpoint)
    return 0


def hold_contest(parts: Parts, config: DictConfig, checkpoint: str | None = None) -> None:
    """Run the contest on the test split: one table, one results.json, one picture."""
    parts.trainer.test(
        parts.module, parts.datamodule, ckpt_path=checkpoint, verbose=False, weights_only=True
    )
    contest = parts.module.contest
    results = contest.results()
    samples = config.picture_samples
    sheet = draw_samples(parts, samples) if samples and draws(parts.trainer) else None
    if not parts.trainer.is_global_zero:
        return
    say(parts.trainer, results_table(results, contest.budgets))
    rows = {name: [r._asdict() for r in row] for name, row in results.items()}
    record = {"budgets": contest.budgets, "exact_match": rows}
    write_atomically(
        parts.folder / "results.json",
        lambda file: file.write(json.dumps(record, indent=1).encode()),
    )
    if sheet is not None:
        picture = parts.folder / "kept.png"
        save_figure(sheet, picture)
        log_picture(parts.trainer, "test/kept", picture)
        say(parts.trainer, f"picture: {picture}")


def draws(trainer: Trainer) -> bool:
    """Whether this process looks at the samples: the first, or all, where none can alone."""
    return trainer.is_global_zero or getattr(trainer.strategy, "meets_in_forward", False)


def draw_samples(parts: Parts, count: int) -> Figure:
    """A sheet of the first test samples as the trained model sees and answers them."""
    source, model = parts.datamodule.test or [], parts.module.model
    samples = [source[i] for i in range(min(count, len(source)))]
    batch = Collator(parts.datamodule.processor, for_measuring=True)(samples)
    batch = parts.module.transfer_batch_to_device(batch, parts.module.device, 0)
    with torch.inference_mode():
        found = parts.module.predict_step(batch, 0)
    answered = [
        Answered(s.images[0], s.turns[-1].question, f["answer"], f["truth"], f["allocations"][0])
        for s, f in zip(samples, found, strict=True)
    ]
    share = model.budget if isinstance(model.budget, int) else f"{model.budget:.0%} of the"
    return draw_answers(
        answered, f"ARR-COC keeps {share} visual tokens: bright cells are kept, dark ones dropped"
    )


def trained_words(module: ArrCocModule) -> str:
    """What is trained and how large it is."""
    everything = sum(p.numel() for p in module.model.parameters())
    trained = sum(p.numel() for p in module.model.parameters() if p.requires_grad)
    what = f"{module.trains} and LoRA" if has_lora(module.model.backbone) else module.trains
    return f"Training {what}: {trained:,} of {everything:,} parameters; the rest is frozen"
