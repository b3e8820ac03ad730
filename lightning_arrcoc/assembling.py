"""Configuration -> model, data and Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from lightning_arrcoc.callbacks import OOMGuard
from lightning_arrcoc.data.datamodule import VqaDataModule
from lightning_arrcoc.loggers import JsonlLogger
from lightning_arrcoc.loggers.redaction import Redactor
from lightning_arrcoc.memory.malloc import keep_freed_memory
from lightning_arrcoc.module import ArrCocModule
from lightning_arrcoc.provenance import describe_run
from lightning_arrcoc.targets import build


class Parts(NamedTuple):
    """What a configuration composes to."""

    module: ArrCocModule
    datamodule: VqaDataModule
    trainer: Trainer
    folder: Path


def assemble(config: DictConfig) -> Parts:
    """Make everything that the configuration names."""
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


def say(trainer: Trainer, what: object) -> None:
    """Print once, not once a rank."""
    if trainer.is_global_zero:
        Console().print(what, soft_wrap=isinstance(what, str))
