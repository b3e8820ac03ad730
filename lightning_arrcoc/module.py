"""Training ARR-COC, or its backbone, with Lightning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from lightning_arrcoc.architecture import MAY_DIFFER, refuse_other
from lightning_arrcoc.contest import FULL, Contest, decode_answers
from lightning_arrcoc.data.collate import Batch, counted
from lightning_arrcoc.data.cutting import MeanOver, count_of, cut_batch, shares
from lightning_arrcoc.metrics import METRICS, AnswerMetric
from lightning_arrcoc.metrics.exact_match import is_match
from lightning_arrcoc.objectives import AttributionDistillation, FullTokens, Objective
from lightning_arrcoc.objectives.reading import Read, count, read_whole
from lightning_arrcoc.plugins.manifest import STAMPS
from lightning_arrcoc.ranks import LossAmongRanks
from lightning_arrcoc.relevance.baselines import Everything
from lightning_arrcoc.resume import UNDER_WAY, settle_loops, take_up, under_way
from lightning_arrcoc.vlm import ArrCocOutput, ArrCocQwen3VL, ChatProcessor
from lightning_arrcoc.vlm.blocks import blocks_of
from lightning_arrcoc.vlm.blocks import checkpoint_activations as recompute_activations
from lightning_arrcoc.vlm.identity import remember_identity
from lightning_arrcoc.vlm.lora import has_lora, lora_parameters, set_lora_training
from lightning_arrcoc.vlm.texture_recipe import TextureRecipe
from lightning_arrcoc.weights import belongings, fitting_weights, trained_weights

OBJECTIVE = "objective"  # key in a checkpoint
ON_THE_BAR = ("accuracy", "kept")  # of what an objective logs


class ArrCocModule(pl.LightningModule):
    """Trains the small network that chooses visual tokens, the backbone being frozen.

    What a step minimises is an objective's business; see `objectives` for what there is and what
    each logs as ``train/...``. Validation and test choose tokens for good, as in use.

    ====================  ==================================================  =====
    logged                what                                                unit
    ====================  ==================================================  =====
    train/loss            what the objective minimises                        nats
    train/accuracy        answer tokens guessed right                         share
    train/accuracy_epoch  the same over a whole epoch                         share
    val/exact_match       answers right, at the model's budget                share
    val/<metric>          each of `metrics`, over the same answers            share
    val/kept              visual tokens kept                                  share
    test/<who>@<budget>   answers right                                       share
    ====================  ==================================================  =====

    Of several processes each counts by how many questions (or answer tokens) its batch has, so that
    gradients and train/loss are those of one process with all samples in its batch. What else an
    objective logs in a step is the first process's; measured is over all of them, and each sample
    once.

    Args:
        model: backbone and ARR-COC.
        trains: "arr_coc", or "backbone" to train that one instead, with all tokens.
        objective: None takes `AttributionDistillation` for ARR-COC and `FullTokens` for a backbone.
        learning_rate: peak.
        lora_learning_rate: peak for adapters inside the backbone (``model/lora``), which train with
            ARR-COC. The default is the usual one for large models (T. Dettmers et al., "QLoRA",
            NeurIPS 2023, appendix B).
        warmup, decay: shares of the run over which it rises to the peak at the start, and falls
            to zero along half a cosine at the end.
        weight_decay: of AdamW, on matrices only.
        contest: what a test compares; None takes the usual.
        metrics: what validation measures beside exact match: "vqa_accuracy", "anls".
        max_new_tokens: longest answer in validation.
        checkpoint_activations: compute what the backbone's blocks keep for the backward anew
            instead: less memory, more time.

    Raises:
        ValueError: `trains` is none of the two, a backbone in training has adapters, or there is
            no such metric.
    """

    def __init__(
        self,
        model: ArrCocQwen3VL,
        *,
        trains: Literal["arr_coc", "backbone"] = "arr_coc",
        objective: Objective | None = None,
        learning_rate: float = 3e-3,
        lora_learning_rate: float = 2e-4,
        weight_decay: float = 0.01,
        warmup: float = 0.03,
        decay: float = 0.6,
        contest: Contest | None = None,
        metrics: Sequence[str] = (),
        max_new_tokens: int = 8,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if trains not in ("arr_coc", "backbone"):
            raise ValueError(f"trains={trains!r}; choose 'arr_coc' or 'backbone'.")
        if trains == "backbone" and has_lora(model.backbone):
            raise ValueError(
                "trains='backbone' changes every weight of the backbone, LoRA freezes them. Choose "
                "training=arr_coc, or model/lora=none."
            )
        if isinstance(metrics, str) or set(metrics) - set(METRICS):
            raise ValueError(
                f"metrics={metrics!r}; expected a list of some of {', '.join(METRICS)}."
            )
        self.model = model
        self.trains = trains
        usual = AttributionDistillation if trains == "arr_coc" else FullTokens
        self.objective = objective or usual()
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.lora_learning_rate = lora_learning_rate
        self.warmup, self.decay = warmup, decay
        self.contest = contest or Contest()
        self.everything = Everything()
        self.max_new_tokens = max_new_tokens
        self.train_accuracy, self.val_kept = MeanMetric(), MeanMetric()
        self.val_metrics = torch.nn.ModuleDict(
            {name: METRICS[name]() for name in dict.fromkeys(("exact_match", *metrics))}
        )
        self._resumed: dict[str, Any] | None = None
        self._reads: list[Read] = []  # by the last step, which may have come in parts
        self._among_ranks = LossAmongRanks()
        if checkpoint_activations:
            recompute_activations(model.backbone)
        model.requires_grad_(False)
        for parameter in (*self.trained.parameters(), *lora_parameters(model.backbone).values()):
            parameter.requires_grad_(True)

    @property
    def trained(self) -> torch.nn.Module:
        """The part whose weights change and are saved, adapters aside."""
        part: torch.nn.Module = getattr(self.model, self.trains)
        return part

    @property
    def processor(self) -> ChatProcessor | None:
        """The backbone's; the data module encodes with it."""
        return self.model.processor

    def texture_recipe(self, processor: ChatProcessor) -> TextureRecipe:
        """How the model's textures come about from what a processor makes of pictures.

        The data module caches by it.
        """
        return TextureRecipe(processor, self.model.arr_coc.texture)

    def train(self, mode: bool = True) -> ArrCocModule:
        """Switch the trained part only: what is frozen stays in eval mode."""
        super().train(mode)
        self.model.eval()
        self.trained.train(mode)
        set_lora_training(self.model.backbone, mode)
        return self

    def forward(self, **batch: Any) -> ArrCocOutput:
        """As `ArrCocQwen3VL.forward`."""
        output: ArrCocOutput = self.model(**batch)
        return output

    # -------------------------------------------------------------------------------- training

    def setup(self, stage: str) -> None:
        """Refuse to train adapters that would learn nothing.

        Raises:
            MisconfigurationException: the objective sends them no gradient.
        """
        self._resumed = None
        reached = getattr(self.objective, "reaches_lora", False)
        if stage == "fit" and has_lora(self.model.backbone) and not reached:
            raise MisconfigurationException(
                f"{type(self.objective).__name__} sends no gradient into the LoRA adapters of the "
                "backbone, so they would stay as they are. Choose training/objective=hard or soft, "
                "or model/lora=none."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        lesson = self.objective(self.model, batch["inputs"], self.progress)
        self._reads.append(lesson.read or read_whole(self.model, batch))
        count, samples = count_of(batch, self._mean_over), len(batch["answers"])
        log = partial(self.log, batch_size=samples)
        if self._among_ranks.alone:
            log("train/loss", lesson.loss, prog_bar=True)
        for name, value in lesson.logs.items() if count else ():
            log(f"train/{name}", value, prog_bar=name in ON_THE_BAR)
        if "accuracy" in lesson.logs:
            self.train_accuracy.update(lesson.logs["accuracy"], weight=samples if count else 0)
            self.log("train/accuracy_epoch", self.train_accuracy, on_step=False, on_epoch=True)
        return self._among_ranks.weighted(lesson.loss, count)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._reads.clear()
        count = count_of(batch, self._mean_over)
        self._among_ranks.begin(count, self.trainer.world_size, self.device)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if not self._among_ranks.alone:
            self.log("train/loss", self._among_ranks.mean(), prog_bar=True)

    def blocks_to_shard(self) -> list[torch.nn.Module]:
        """The backbone's blocks, for `FrozenFSDPStrategy`."""
        remember_identity(self.model.backbone)
        return blocks_of(self.model.backbone)

    @property
    def _mean_over(self) -> MeanOver:
        over: MeanOver = getattr(self.objective, "mean_over", "answer_tokens")
        return over

    def batch_counts(self, batch: Batch) -> dict[str, int | Tensor]:
        """How much the last step read of its batch, for `ThroughputMonitor`; see `count`."""
        return count(self.model, batch, self._reads, frozen=self.trains == "arr_coc")

    def split_batch(self, batch: Batch, most: int) -> list[tuple[Batch, float]]:
        """Parts of at most so many samples and their shares in the loss, for `OOMGuard`.

        Their gradients add up to the whole batch's, but for what an objective draws anew for each
        or judges of a batch as a whole.
        """
        parts = cut_batch(batch, most)
        return list(zip(parts, shares(parts, self._mean_over), strict=True))

    def on_train_start(self) -> None:
        """Go on where a checkpoint stopped, which may be within an epoch or at its very end."""
        if self._resumed is None:
            return
        take_up(self, self.train_accuracy, self._resumed)
        measured = bool(self._resumed["mean"]["weight"] > 0)  # of all processes, and known to all
        self._resumed = None
        if measured:
            self.log("train/accuracy_epoch", self.train_accuracy, on_step=False, on_epoch=True)

    def on_train_epoch_start(self) -> None:
        self.train_accuracy.reset()

    @property
    def progress(self) -> float:
        """Share of the run that lies behind, 0 to 1."""
        return min(1.0, self.global_step / max(1, self._steps))

    @property
    def _steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise MisconfigurationException(
                "ArrCocModule plans learning rate and sharpness over the whole run, but this "
                "Trainer has no end in steps. Set Trainer(max_steps=...) or max_epochs."
            )
        return int(steps)

    @property
    def _all_tokens(self) -> dict[str, Any]:
        return {"selector": self.everything, "budget": 1.0}

    @property
    def _choice(self) -> dict[str, Any]:
        """How tokens are chosen when it is measured: a backbone in training reads all of them."""
        return self._all_tokens if self.trains == "backbone" else {}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = [p for p in self.trained.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        adapters = list(lora_parameters(self.model.backbone).values())
        if adapters:
            groups.append({"params": adapters, "lr": self.lora_learning_rate})
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.95))
        steps = self._steps
        shape = partial(rate_factor, steps=steps, warmup=self.warmup, decay=self.decay)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, shape), "interval": "step"},
        }

    # ------------------------------------------------------------------------------- measuring

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        output = self.model.generate(
            **batch["prompts"], max_new_tokens=self.max_new_tokens, do_sample=False, **self._choice
        )
        real, images = counted(batch)
        answers = decode_answers(self.model, output, batch["prompts"])[:real]
        for allocation in (output.allocation or [])[:images]:
            self.val_kept.update(len(allocation.levels) / allocation.relevance.numel())
        for name, metric in self.val_metrics.items():
            assert isinstance(metric, AnswerMetric)
            metric.update(answers, batch["accepted"][:real])
            self.log(f"val/{name}", metric, prog_bar=name == "exact_match")
        self.log("val/kept", self.val_kept, prog_bar=True)

    def on_test_epoch_start(self) -> None:
        self.contest.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.contest.update(self.model, batch)

    def on_test_epoch_end(self) -> None:
        for name, row in self.contest.results().items():
            budgets = [1.0] if name == FULL else self.contest.budgets
            for budget, result in zip(budgets, row, strict=True):
                self.log(f"test/{name}@{budget:g}", result.exact_match)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """For each sample its answer, the truth and the allocations of its images.

        Of several accepted answers the truth is the one that was given, or else the usual one.
        """
        output = self.model.generate(
            **batch["prompts"], max_new_tokens=64, do_sample=False, **self._choice
        )
        answers = decode_answers(self.model, output, batch["prompts"])
        allocations = iter(output.allocation or [])
        return [
            {
                "answer": answer,
                "truth": next((right for right in accepted if is_match(answer, [right])), truth),
                "allocations": list(islice(allocations, images)),
            }
            for answer, truth, accepted, images in zip(
                answers, batch["answers"], batch["accepted"], batch["images"], strict=True
            )
        ]

    # ----------------------------------------------------------------------------- checkpoints

    def architecture(self) -> dict[str, Any]:
        """What shapes do not tell of the trained part, for `AtomicCheckpoint`.

        One model serves every budget, so the budget may differ; and what else shapes do not tell
        is told for those who build the network from a checkpoint alone.
        """
        if self.trains != "arr_coc":
            return {"trains": self.trains}
        texture, allocator = self.model.arr_coc.texture, self.model.arr_coc.allocator
        channels = getattr(texture, "channels", ())  # a texture of one's own may have no table
        return {
            "trains": self.trains,
            "texture": {
                "out_channels": getattr(texture, "out_channels", None),
                "channels": [channel.name for channel in channels],
            },
            "tensions": type(self.model.arr_coc.balancer).__name__,
            MAY_DIFFER: {
                "num_positions": getattr(allocator, "num_positions", None),
                "coarse": getattr(allocator, "coarse", None),
                "temperature": getattr(allocator, "temperature", None),
                "query_blind": getattr(self.model.arr_coc, "query_blind", None),
            },
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was trained, and say which backbone it belongs to."""
        checkpoint["state_dict"] = trained_weights(self.model, self.trains)
        checkpoint.update(belongings(self.model, self.trains))
        if hasattr(self.objective, "state_dict"):
            checkpoint[OBJECTIVE] = self.objective.state_dict()
        checkpoint[UNDER_WAY] = under_way(self, self.train_accuracy)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the trained part into a full state, or say why it does not fit.

        Raises:
            ArchitectureError: its channels or tensions are others.
            ValueError: as for `fitting_weights`.
        """
        trainer = self._trainer  # the public property raises where there is none
        # Of a sharded model what is whole, which is all that its strategy loads.
        full = trainer.strategy.lightning_module_state_dict() if trainer else self.state_dict()
        if checkpoint["state_dict"].keys() != full.keys():  # else what fits was chosen already
            weights = self._own_weights(checkpoint)
            full.update({f"model.{name}": value for name, value in weights.items()})
            checkpoint["state_dict"] = full
        if hasattr(self.objective, "load_state_dict"):
            self.objective.load_state_dict(checkpoint.get(OBJECTIVE, {}))
        self._resumed = checkpoint.get(UNDER_WAY) if "loops" in checkpoint else None
        if trainer is not None:
            settle_loops(checkpoint, by_steps=trainer.max_steps != -1)

    def start_from(self, checkpoint: Mapping[str, Any]) -> None:
        """Take over the weights of another run, to begin a new one with them.

        Adapters that it did not have stay fresh.

        Raises:
            ArchitectureError: its channels or tensions are others.
            ValueError: as for `fitting_weights`.
        """
        weights = self._own_weights(checkpoint, fresh_lora=True)
        self.model.load_state_dict(weights, strict=False)

    def _own_weights(
        self, checkpoint: Mapping[str, Any], *, fresh_lora: bool = False
    ) -> dict[str, Tensor]:
        """The checkpoint's, once it is sure that they are of this architecture and backbone."""
        saved = checkpoint.get(STAMPS, {}).get("architecture", {})
        refuse_other({"own": saved.get("own")}, {"own": self.architecture()})
        return fitting_weights(checkpoint, self.model, self.trains, fresh_lora=fresh_lora)


def rate_factor(step: int, steps: int, warmup: float, decay: float) -> float:
    """Factor on the learning rate: linear up, level, then half a cosine down to zero."""
    rise, fall = max(1.0, warmup * steps), max(1.0, decay * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, (step - steps + fall) / fall))))
