"""The commands: configuration -> objects -> Trainer. The one place where all parts meet."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_module
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from lightning_arrcoc.ask_command import ask as answer_one
from lightning_arrcoc.ask_command import check_question, newest_run
from lightning_arrcoc.atomic import write_atomically
from lightning_arrcoc.cache_command import cache as cache
from lightning_arrcoc.callbacks import OOMGuard
from lightning_arrcoc.callbacks.checkpointing.last_verified import find_last_verified
from lightning_arrcoc.callbacks.checkpointing.resuming import LAST_VERIFIED
from lightning_arrcoc.compare.page.command import compare as compare
from lightning_arrcoc.contest import results_table
from lightning_arrcoc.data.collate import Collator
from lightning_arrcoc.data.datamodule import VqaDataModule
from lightning_arrcoc.data.images import open_image
from lightning_arrcoc.data.sample import Sample, Turn
from lightning_arrcoc.doctor import examine
from lightning_arrcoc.export.command import check_format
from lightning_arrcoc.export.command import export as export_checkpoint
from lightning_arrcoc.loggers import JsonlLogger
from lightning_arrcoc.loggers.pictures import log_picture
from lightning_arrcoc.loggers.redaction import Redactor
from lightning_arrcoc.memory.malloc import keep_freed_memory
from lightning_arrcoc.module import ArrCocModule
from lightning_arrcoc.pictures import (
    Answered,
    Explained,
    Explaining,
    draw_answers,
    draw_explained,
    save_figure,
)
from lightning_arrcoc.plugins.verifying import verify
from lightning_arrcoc.provenance import describe_run
from lightning_arrcoc.serve.command import require_extra, serve_checkpoint
from lightning_arrcoc.targets import build
from lightning_arrcoc.trained import options_of
from lightning_arrcoc.vlm.loading import hide_progress_bars
from lightning_arrcoc.vlm.lora import has_lora, save_lora
from lightning_arrcoc.vlm.saved_folder import CONFIG as SAVED

MEASURED = {"state_dict", "pytorch-lightning_version"}  # keys of a checkpoint
RESUMED = MEASURED | {"optimizer_states", "lr_schedulers", "loops"}


class Parts(NamedTuple):
    """What a configuration composes to."""

    module: ArrCocModule
    datamodule: VqaDataModule
    trainer: Trainer
    folder: Path


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


def ask(config: DictConfig) -> int:
    """Answer one question about one picture."""
    check_question(config)
    newest = None if config.ckpt is not None else newest_run()
    named = config.ckpt if newest is None else str(newest)
    checkpoint = None if named is None else trained_source(named)
    quiet_known_noise()
    return answer_one(config, open_image(config.image), checkpoint)


def export(config: DictConfig) -> int:
    """Write a checkpoint in a form that others can use."""
    check_format(config)
    checkpoint = trained_source(config.ckpt)
    quiet_known_noise()
    return export_checkpoint(config, checkpoint)


def serve(config: DictConfig) -> int:
    """Answer over HTTP until told to stop."""
    require_extra()
    settings = build(config.server)
    checkpoint = trained_source(config.ckpt)
    quiet_known_noise()
    options = options_of(config, list(HydraConfig.get().overrides.task), checkpoint)
    return serve_checkpoint(checkpoint, options, settings)


def doctor(config: DictConfig) -> int:
    """Examine the machine and say what to set."""
    quiet_known_noise()
    return examine(config)


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


# --------------------------------------------------------------------------------- parts


def assemble(config: DictConfig) -> Parts:
    """Make everything that the configuration names."""
    quiet_known_noise()
    if config.trainer.get("accelerator") == "cpu":
        keep_freed_memory()
    seed_everything(config.seed, workers=True, verbose=False)
    model = build(config.model)
    module = build(config.training, model=model)
    refuse_lacking_gpu(config)
    callbacks = [build(part) for part in (config.get("callbacks") or {}).values()]
    callbacks.append(ConfigRecord(config))
    trainer = build(config.trainer, callbacks=callbacks, logger=make_loggers(config))
    end_together(trainer)
    if trainer.world_size > 1 and str(HydraConfig.get().mode).endswith("MULTIRUN"):
        raise ValueError(
            "A sweep over runs of several processes does not work: they outlive their run. Start "
            "each as a run of its own, or sweep with trainer.devices=1."
        )
    return Parts(module, build(config.data), trainer, Path(trainer.default_root_dir))


def refuse_lacking_gpu(config: DictConfig) -> None:
    """Say what else there is, where a trainer for GPUs was chosen without one."""
    if config.trainer.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            "No GPU was found, and trainer.accelerator=gpu wants one. Take trainer=cpu, or "
            "trainer=cpu_ddp to try several processes."
        )


def end_together(trainer: Trainer) -> None:
    """Let memory that runs out end the run where no process can go on without the others."""
    meets = getattr(trainer.strategy, "meets_in_forward", False)
    for guard in trainer.callbacks if meets else []:  # type: ignore[attr-defined]
        if isinstance(guard, OOMGuard) and guard.policy != "raise":
            guard.policy = "raise"
            say(trainer, "OOMGuard ends this run if memory runs out: sharded, no batch is split.")


def make_loggers(config: DictConfig) -> list[Logger]:
    """The logger that was chosen, or several by name, and the run's own log beside them."""
    chosen = config.get("logger")
    if not chosen:
        return []
    loggers = [build(part) for part in ([chosen] if "_target_" in chosen else chosen.values())]
    if not any(isinstance(logger, JsonlLogger) for logger in loggers):
        loggers.append(JsonlLogger(config.trainer.default_root_dir, name="", version=""))
    return loggers


class ConfigRecord(Callback):
    """Hands configuration and commit to every logger, once the run has really begun."""

    def __init__(self, config: DictConfig) -> None:
        self.config: DictConfig | None = config

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.loggers and self.config is not None:
            plain = Redactor()(OmegaConf.to_container(self.config, resolve=True))
            for logger in trainer.loggers:
                begun = {} if isinstance(logger, JsonlLogger) else {"run": describe_run()}
                logger.log_hyperparams({**plain, **begun})
            self.config = None


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


def existing_checkpoint(path: str | None, keys: Set[str] = MEASURED) -> str:
    """The path itself, once it is sure that a checkpoint with these keys lies there.

    Raises:
        ValueError: none was named, it is a URL, or the file is no checkpoint.
        FileNotFoundError: there is no such file.
    """
    if path is None:
        raise ValueError(
            "No checkpoint was named; expected ckpt=outputs/fit/.../checkpoints/last.ckpt, as "
            "`python -m lightning_arrcoc fit` writes it."
        )
    if "://" in path:
        raise ValueError(f"{path!r} is a URL; download it first and name the file.")
    if Path(path).name == LAST_VERIFIED:
        path = find_last_verified(str(Path(path).parent)) or path
    if not Path(path).is_file():
        raise FileNotFoundError(f"No checkpoint at {path!r}; expected a file made by fit.")
    verify(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        # torch's own words advise to load it unsafely
        unsafe = "weights_only" in str(error)
        reason = (
            "it holds objects" if unsafe else str(error).splitlines()[0] if str(error) else "empty"
        )
        raise ValueError(
            f"{path!r} is damaged or no checkpoint ({reason}). Choose another, for instance "
            "last.ckpt of the same run."
        ) from error
    missing = keys - content.keys() if isinstance(content, dict) else keys
    if missing:
        raise ValueError(
            f"{path!r} lacks {', '.join(sorted(missing))}; expected a checkpoint made by fit"
            f"{', with all it needs to go on' if keys == RESUMED else ''}."
        )
    return path


def trained_source(path: str | None) -> str:
    """A checkpoint as for `existing_checkpoint`, or a folder that export format=hf wrote."""
    if path is not None and (Path(path) / SAVED).is_file():
        return path
    return existing_checkpoint(path)


def say(trainer: Trainer, what: object) -> None:
    """Print once, not once a rank."""
    if trainer.is_global_zero:
        Console().print(what, soft_wrap=isinstance(what, str))


def quiet_known_noise() -> None:
    """Hide messages that the user can do nothing about, and advertisements."""
    for message in (
        r"Found \d+ module\(s\) in eval mode",  # the frozen backbone, on purpose
        r".*isinstance\(treespec, LeafSpec\).*",  # inside Lightning, under torch >= 2.12
        r"The '\w+_dataloader' does not have many workers",
        r"Be aware that when using `ckpt_path`",  # measuring needs no callbacks of the run
        r"The dirpath has changed from",  # every run has a folder of its own
        r"It is recommended to use `self.log\('test/",  # these are over all processes already
    ):
        warnings.filterwarnings("ignore", message=message)
    rank_zero_module.log.addFilter(is_no_noise)
    hide_progress_bars()


def is_no_noise(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning's tells the user something."""
    noise = ("litlogger", "litmodels", "TPU available", "cannot see tensors apart from")
    return not any(word in str(record.msg) for word in noise)
