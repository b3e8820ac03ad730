"""Training ARR-COC, or its backbone, with Lightning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from lightning_arrcoc.contest import FULL, Contest, decode_answers, exact_matches
from lightning_arrcoc.data.collate import Batch
from lightning_arrcoc.relevance.balancing import TENSIONS
from lightning_arrcoc.relevance.baselines import Everything
from lightning_arrcoc.vlm import ArrCocOutput, ArrCocQwen3VL, ChatProcessor
from lightning_arrcoc.vlm.chat import IGNORED_LABEL
from lightning_arrcoc.vlm.identity import backbone_identity, differences
from lightning_arrcoc.vlm.packing import forward_packed

IDENTITY = "backbone"  # key in a checkpoint


class ArrCocModule(pl.LightningModule):
    """Trains the small network that chooses visual tokens, the backbone being frozen.

    It learns softly: every token is kept, and attention towards it is biased by the logarithm of
    its gate, ``sigmoid(sharpness * relevance logit)``. Sharpness grows over the run, and a
    penalty on the mean gate makes a choice of it. Validation and test choose hard. The loss is the
    answer's alone: nothing is distilled from the full-token answer, and no hard phase follows.

    ====================  ===================================================  ==============
    logged                what                                                 unit
    ====================  ===================================================  ==============
    train/loss            answer cross-entropy and gate penalty                nats
    train/accuracy        answer tokens guessed right                          share
    train/accuracy_epoch  the same over a whole epoch                          share
    train/gate            mean gate; soft phase only                           share
    train/kept            tokens whose gate is more than half open; soft only  count
    train/tension_*       mean of each tension; soft phase only                0 to 1
    val/exact_match       answers right, hard choice at the model's budget     share
    val/kept              visual tokens kept                                   share
    test/<who>@<budget>   answers right                                        share
    ====================  ===================================================  ==============

    Args:
        model: backbone and ARR-COC.
        trains: "arr_coc", or "backbone" to train that one instead, with all tokens.
        learning_rate: peak.
        warmup, decay: shares of the run over which it rises to the peak at the start, and falls
            to zero along half a cosine at the end.
        weight_decay: of AdamW, on matrices only.
        sharpness: at the first and at the last step.
        gate_target: mean gate above which the penalty sets in.
        gate_weight: nats of penalty per unit of mean gate above the target.
        contest: what a test compares; None takes the usual.

    Raises:
        ValueError: `trains` is none of the two.
    """

    def __init__(
        self,
        model: ArrCocQwen3VL,
        *,
        trains: Literal["arr_coc", "backbone"] = "arr_coc",
        learning_rate: float = 3e-3,
        weight_decay: float = 0.01,
        warmup: float = 0.03,
        decay: float = 0.6,
        sharpness: tuple[float, float] = (1.0, 5.0),
        gate_target: float = 0.05,
        gate_weight: float = 2.0,
        contest: Contest | None = None,
    ) -> None:
        super().__init__()
        if trains not in ("arr_coc", "backbone"):
            raise ValueError(f"trains={trains!r}; choose 'arr_coc' or 'backbone'.")
        self.model = model
        self.trains = trains
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.warmup, self.decay = warmup, decay
        self.sharpness = (float(sharpness[0]), float(sharpness[1]))
        self.gate_target, self.gate_weight = gate_target, gate_weight
        self.contest = contest or Contest()
        self.everything = Everything()
        self.val_exact_match, self.val_kept = MeanMetric(), MeanMetric()
        model.requires_grad_(False)
        self.trained.requires_grad_(True)

    @property
    def trained(self) -> torch.nn.Module:
        """The part whose weights change and are saved."""
        part: torch.nn.Module = getattr(self.model, self.trains)
        return part

    @property
    def processor(self) -> ChatProcessor | None:
        """The backbone's; the data module encodes with it."""
        return self.model.processor

    def train(self, mode: bool = True) -> ArrCocModule:
        """Switch the trained part only: what is frozen stays in eval mode."""
        super().train(mode)
        self.model.eval()
        self.trained.train(mode)
        return self

    def forward(self, **batch: Any) -> ArrCocOutput:
        """As `ArrCocQwen3VL.forward`."""
        output: ArrCocOutput = self.model(**batch)
        return output

    # -------------------------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.trains == "backbone":
            output = self._read_all(batch["inputs"])
            loss: Tensor = output.loss
        else:
            sharpness = self.sharpness[0] + self.progress * (self.sharpness[1] - self.sharpness[0])
            output = self(**batch["inputs"], soft_sharpness=sharpness)
            gate = mean_gate(output, sharpness)
            loss = output.loss + self.gate_weight * F.relu(gate - self.gate_target)
            if not gate.requires_grad:  # no image in the batch; other processes may have some
                loss = loss + 0.0 * sum(p.sum() for p in self.trained.parameters())
            self._log_selection(output, gate)
        log = partial(self.log, batch_size=len(batch["answers"]))
        log("train/loss", loss, prog_bar=True)
        accuracy = token_accuracy(output, self.model.end_tokens)
        log("train/accuracy", accuracy, prog_bar=True)
        log("train/accuracy_epoch", accuracy, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def _read_all(self, inputs: dict[str, Any]) -> ArrCocOutput:
        """The backbone's own output, whether turns are packed or follow each other."""
        if "turns" not in inputs:
            return self.forward(**inputs, **self._all_tokens)
        known = {key: value for key, value in inputs.items() if key != "attention_mask"}
        packed = forward_packed(self.model.backbone, **known)
        return ArrCocOutput(loss=packed.loss, logits=packed.logits, labels=inputs["labels"])

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

    def _log_selection(self, output: ArrCocOutput, gate: Tensor) -> None:
        """What the soft choice does to the batch's images, if it has any."""
        allocations = output.allocation or []
        if not allocations:
            return
        log = partial(self.log, batch_size=len(allocations))
        log("train/gate", gate)
        kept = [(allocation.relevance > 0.5).float().sum() for allocation in allocations]
        log("train/kept", torch.stack(kept).mean(), prog_bar=True)
        tensions = torch.stack([allocation.tensions for allocation in allocations]).mean(0)
        for name, value in zip(TENSIONS, tensions, strict=True):
            log(f"train/tension_{name}", value)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = [p for p in self.trained.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
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
            **batch["prompts"], max_new_tokens=8, do_sample=False, **self._choice
        )
        answers = decode_answers(self.model, output, batch["prompts"])
        for right in exact_matches(answers, batch["answers"]):
            self.val_exact_match.update(right)
        for allocation in output.allocation or []:
            self.val_kept.update(len(allocation.levels) / allocation.relevance.numel())
        self.log("val/exact_match", self.val_exact_match, prog_bar=True)
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
        """For each sample its answer, the truth and the allocations of its images."""
        output = self.model.generate(
            **batch["prompts"], max_new_tokens=64, do_sample=False, **self._choice
        )
        answers = decode_answers(self.model, output, batch["prompts"])
        allocations = iter(output.allocation or [])
        return [
            {"answer": answer, "truth": truth, "allocations": list(islice(allocations, images))}
            for answer, truth, images in zip(
                answers, batch["answers"], batch["images"], strict=True
            )
        ]

    # ----------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was trained, under its own name, and say which backbone it belongs to."""
        prefix = f"{self.trains}."
        checkpoint["state_dict"] = {
            prefix + name: value for name, value in self.trained.state_dict().items()
        }
        if self.trains == "arr_coc":
            checkpoint[IDENTITY] = backbone_identity(self.model.backbone)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the trained part into a full state, or say why it does not fit.

        Raises:
            ValueError: it was trained on another backbone or has another architecture.
        """
        saved: dict[str, Tensor] = checkpoint["state_dict"]
        prefix = f"{self.trains}."
        expected = {prefix + name: value for name, value in self.trained.state_dict().items()}
        wrong = [
            f"{name}: {_shape(saved, name)} in the checkpoint, {_shape(expected, name)} here"
            for name in sorted(saved.keys() | expected.keys())
            if _shape(saved, name) != _shape(expected, name)
        ]
        if IDENTITY in checkpoint and self.trains == "arr_coc":
            other = differences(checkpoint[IDENTITY], backbone_identity(self.model.backbone))
            if other:
                raise ValueError(
                    f"The checkpoint belongs to the backbone {checkpoint[IDENTITY].get('name')!r}, "
                    f"not to this one ({'; '.join(other[:3])}). Set model.backbone to the one it "
                    "was trained on."
                )
        if wrong:
            raise ValueError(
                f"The checkpoint holds another architecture: {'; '.join(wrong[:3])}"
                f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}. Compose the model as "
                "it was trained (model=..., model.arr_coc=...)."
            )
        full = self.state_dict()
        full.update({f"model.{name}": value for name, value in saved.items()})
        checkpoint["state_dict"] = full


def _shape(state: dict[str, Tensor], name: str) -> str:
    return str(tuple(state[name].shape)) if name in state else "absent"


def mean_gate(output: ArrCocOutput, sharpness: float) -> Tensor:
    """Mean over images of the mean gate of each, differentiable; 0 where there is no image."""
    gates = [(sharpness * logit).sigmoid().mean() for logit in output.relevance_logits or []]
    return torch.stack(gates).mean() if gates else output.logits.new_zeros(())


def token_accuracy(output: ArrCocOutput, end_tokens: Sequence[int]) -> Tensor:
    """Share of answer tokens guessed right; the end of the turn, which always follows, is none."""
    if output.labels is None:
        raise ValueError("The batch has no labels to measure accuracy against.")
    targets = output.labels[:, 1:]
    ends = torch.isin(targets, targets.new_tensor(list(end_tokens)))
    asked = (targets != IGNORED_LABEL) & ~ends
    right = output.logits[:, :-1].argmax(-1) == targets
    accuracy: Tensor = right[asked].float().mean()
    return accuracy


def rate_factor(step: int, steps: int, warmup: float, decay: float) -> float:
    """Factor on the learning rate: linear up, level, then half a cosine down to zero."""
    rise, fall = max(1.0, warmup * steps), max(1.0, decay * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, (step - steps + fall) / fall))))
