"""Memory that runs out at every point of a step, simulated, and what becomes of the run."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_arrcoc.callbacks import AtomicCheckpoint, OOMGuard
from lightning_arrcoc.events import Event
from lightning_arrcoc.memory.readings import GIB

MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ... of which 1.00 GiB is free."
pytestmark = pytest.mark.filterwarnings("ignore:Out of memory at step:UserWarning")


class FailingBackward(torch.autograd.Function):
    """Runs out of memory on the way back, when later layers have their gradients already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: int) -> Tensor:
        ctx.rows, ctx.limit = len(x), limit
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if ctx.rows > ctx.limit:
            raise torch.OutOfMemoryError(MESSAGE)
        return gradients[0], None


class FailingSGD(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        raise torch.OutOfMemoryError(MESSAGE)
        return found


class Small(pl.LightningModule):
    """Has memory for so many samples at a time.

    Args:
        limit: samples.
        fails_in: forward, backward, optimizer or validation.
        reduction: of its loss.
    """

    def __init__(
        self, limit: int = 100, fails_in: str = "forward", reduction: str = "mean"
    ) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 1)
        self.limit, self.fails_in, self.reduction = limit, fails_in, reduction
        self.tried: list[int] = []
        self.gradients: list[Tensor] = []
        self.made: list[weakref.ref[Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch["x"], batch["y"]
        self.tried.append(len(x))
        hidden = self.first(x).tanh()
        self.made.append(weakref.ref(hidden))
        if self.fails_in == "forward" and len(x) > self.limit:
            raise torch.OutOfMemoryError(MESSAGE)
        if self.fails_in == "backward":
            hidden = FailingBackward.apply(hidden, self.limit)
        loss = nn.functional.mse_loss(self.last(hidden)[:, 0], y, reduction=self.reduction)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return {"loss": loss}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.fails_in == "validation":
            raise torch.OutOfMemoryError(MESSAGE)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.gradients.append(
            torch.cat([torch.zeros(1) if p.grad is None else p.grad.flatten().clone()
                       for p in self.parameters()])
        )  # fmt: skip

    def configure_optimizers(self) -> Any:
        kind = FailingSGD if self.fails_in == "optimizer" else torch.optim.SGD
        return kind(self.parameters(), lr=0.1, momentum=0.9)


class Listening(pl.Callback):
    def __init__(self) -> None:
        self.heard: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.heard.append(event)

    def names(self) -> list[str]:
        return [event.name.removeprefix("memory/") for event in self.heard]


def data(rows: int = 7, batches: int = 6) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows * batches, 3, generator=generator)
    return DataLoader(
        [{"x": one, "y": one.sum()} for one in x],
        batch_size=rows,  # type: ignore[arg-type]
    )


def fit(folder: Path, model: Small, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    loader = options.pop("loader", None) or data()
    defaults: dict[str, Any] = {"max_steps": 3, "limit_val_batches": 0, "accelerator": "cpu"}
    trainer = pl.Trainer(
        devices=1, callbacks=list(callbacks), logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, num_sanity_val_steps=0,
        enable_checkpointing=any(isinstance(one, AtomicCheckpoint) for one in callbacks),
        **{**defaults, **options},
    )  # fmt: skip
    trainer.fit(model, loader, loader)
    return trainer


def weights(model: Small) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# --------------------------------------------------------------------------------------- split


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("fails_in", ["forward", "backward"])
def test_gradients_of_a_split_batch_are_the_whole_one_s(
    tmp_path: Path, fails_in: str, accumulate: int
) -> None:
    options = {"accumulate_grad_batches": accumulate, "max_steps": 2}
    whole, parts = Small(), Small(2, fails_in)
    fit(tmp_path, whole, **options)
    fit(tmp_path, parts, OOMGuard("split"), **options)
    assert parts.tried[:4] == [7, 4, 2, 2]
    assert len(parts.gradients) == len(whole.gradients) == 2
    for one, other in zip(parts.gradients, whole.gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-7)


def test_a_sum_of_losses_is_split_as_such(tmp_path: Path) -> None:
    whole, parts = Small(reduction="sum"), Small(3, reduction="sum")
    fit(tmp_path, whole)
    fit(tmp_path, parts, OOMGuard("split", reduction="sum"))
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-6)


class Tokens(Small):
    """A mean over entries of labels, as language models take it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.tried.append(len(batch["x"]))
        if len(batch["x"]) > self.limit:
            raise torch.OutOfMemoryError(MESSAGE)
        logits = self.first(batch["x"])[:, None, :].expand(-1, 3, -1)
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())


def test_a_mean_over_tokens_is_split_by_tokens(tmp_path: Path) -> None:
    labels = torch.randint(0, 5, (7, 4), generator=torch.Generator().manual_seed(0))
    labels[:4, 2:] = -100
    x = torch.randn(7, 3)
    loader: Any = DataLoader(
        [{"x": a, "labels": b} for a, b in zip(x, labels, strict=True)],  # type: ignore[arg-type]
        batch_size=7,
    )  # fmt: skip
    whole, parts, wrong = Tokens(), Tokens(2), Tokens(2)
    options: dict[str, Any] = {"loader": loader, "max_steps": 1}
    fit(tmp_path, whole, **options)
    fit(tmp_path, parts, OOMGuard("split", reduction="tokens"), **options)
    with pytest.warns(UserWarning, match="reduction='tokens'"):
        fit(tmp_path, wrong, OOMGuard("split"), **options)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-7)
    assert not torch.allclose(weights(wrong), weights(whole), rtol=1e-3)


def test_what_fits_is_remembered_and_more_is_tried_again(tmp_path: Path) -> None:
    model, listening = Small(4), Listening()
    fit(tmp_path, model, OOMGuard("split", raise_after=2), listening, max_steps=6)
    assert model.tried == [7, 4, 3, 4, 3, 7, 4, 3, 4, 3, 4, 3, 4, 3]
    assert listening.names() == [
        "ran_out", "batch_split", "split_eased", "ran_out", "batch_split", "split_eased",
    ]  # fmt: skip
    assert listening.heard[1].fields == {"samples": 4}


def test_the_logged_loss_is_the_whole_batch_s(tmp_path: Path) -> None:
    whole = fit(tmp_path, Small(), max_steps=6, max_epochs=1)
    parts = fit(tmp_path, Small(2), OOMGuard("split"), max_steps=6, max_epochs=1)
    assert float(parts.callback_metrics["loss_epoch"]) == pytest.approx(
        float(whole.callback_metrics["loss_epoch"]), rel=1e-5
    )


def test_the_callbacks_see_the_whole_batch_s_loss(tmp_path: Path) -> None:
    class Watching(pl.Callback):
        def __init__(self) -> None:
            self.losses: list[float] = []

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            self.losses.append(float(outputs["loss"]))

    first, second = Watching(), Watching()
    fit(tmp_path, Small(), first)
    fit(tmp_path, Small(2), second, OOMGuard("split"))
    assert second.losses == pytest.approx(first.losses, rel=1e-5)


def test_without_a_failure_a_run_is_what_it_would_have_been(tmp_path: Path) -> None:
    for policy in ("raise", "skip", "split"):
        for accumulate in (1, 2):
            bare, guarded = Small(), Small()
            fit(tmp_path, bare, accumulate_grad_batches=accumulate)
            fit(tmp_path, guarded, OOMGuard(policy), accumulate_grad_batches=accumulate)  # type: ignore[arg-type]
            assert torch.equal(weights(bare), weights(guarded))


def test_a_single_sample_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    model = Small(0)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        fit(tmp_path, model, OOMGuard("split"))
    assert model.tried == [7, 4, 2, 1]


def test_a_batch_that_nobody_can_split_ends_the_run_and_says_why(tmp_path: Path) -> None:
    class Packed(Small):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return {**batch, "patches": torch.zeros(50, 2)}

    with (
        pytest.warns(UserWarning, match=r"first dimensions differ.*split_batch\(batch, most\)"),
        pytest.raises(torch.OutOfMemoryError),
    ):
        fit(tmp_path, Packed(2), OOMGuard("split"))


def test_a_module_may_split_its_batches_itself(tmp_path: Path) -> None:
    class Own(Small):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return {**batch, "patches": torch.zeros(50, 2)}

        def split_batch(self, batch: Any, most: int) -> Any:
            total = len(batch["x"])
            for start in range(0, total, most):
                part = {key: batch[key][start : start + most] for key in ("x", "y")}
                yield part, len(part["x"]) / total

    whole, parts = Small(), Own(2)
    fit(tmp_path, whole)
    fit(tmp_path, parts, OOMGuard("split"))
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-7)


def test_batch_normalisation_is_warned_of(tmp_path: Path) -> None:
    class Normalised(Small):
        def __init__(self, limit: int) -> None:
            super().__init__(limit)
            self.norm = nn.BatchNorm1d(5)

    with pytest.warns(UserWarning, match="Batch normalisation sees"):
        fit(tmp_path, Normalised(3), OOMGuard("split"))


def test_the_size_that_fits_comes_back_with_a_checkpoint(tmp_path: Path) -> None:
    guard = OOMGuard("split")
    trainer = fit(tmp_path, Small(2), guard)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    model, other = Small(2), OOMGuard("split")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    other.load_state_dict(saved["callbacks"][other.state_key])
    fit(tmp_path, model, other)
    assert model.tried[0] == 2


# ---------------------------------------------------------------------------------------- skip


@pytest.mark.parametrize("fails_in", ["forward", "backward"])
def test_a_skipped_batch_changes_nothing(tmp_path: Path, fails_in: str) -> None:
    class Once(Small):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.limit = 2 if batch_idx == 1 else 100
            if batch_idx in (1, 2):
                before.append(weights(self))

    before: list[Tensor] = []
    listening, model = Listening(), Once(fails_in=fails_in)
    trainer = fit(tmp_path, model, OOMGuard("skip"), listening)
    assert torch.equal(*before)
    assert listening.names() == ["ran_out", "batch_skipped"]
    assert trainer.global_step == 3


@pytest.mark.parametrize("fails_in", ["forward", "backward"])
def test_of_accumulated_batches_the_skipped_one_alone_is_missing(
    tmp_path: Path, fails_in: str
) -> None:
    class Second(Small):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.limit = 2 if batch_idx == 1 else 100

    class Without(Small):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            found = super().training_step(batch, batch_idx)
            return {"loss": found["loss"] * 0} if batch_idx == 1 else found

    one, other = Second(fails_in=fails_in), Without()
    fit(tmp_path, one, OOMGuard("skip"), accumulate_grad_batches=3, max_steps=1)
    fit(tmp_path, other, accumulate_grad_batches=3, max_steps=1)
    torch.testing.assert_close(one.gradients[0], other.gradients[0])


# --------------------------------------------------------------------------------------- raise


@pytest.mark.parametrize("policy", ["raise", "skip", "split"])
def test_an_optimizer_that_fails_ends_the_run(tmp_path: Path, policy: Any) -> None:
    listening = Listening()
    with pytest.raises(torch.OutOfMemoryError):
        fit(tmp_path, Small(fails_in="optimizer"), OOMGuard(policy), listening)
    (event,) = listening.heard
    assert event.fields["cause"].startswith("The optimizer: its state")


@pytest.mark.parametrize("policy", ["raise", "split"])
def test_a_validation_that_fails_ends_the_run(tmp_path: Path, policy: Any) -> None:
    listening = Listening()
    with pytest.raises(torch.OutOfMemoryError):
        fit(tmp_path, Small(fails_in="validation"), OOMGuard(policy), listening,
            limit_val_batches=1, val_check_interval=1)  # fmt: skip
    assert listening.heard[-1].fields["phase"] == "validation"


def test_the_cause_is_said_and_the_evidence_written(tmp_path: Path, fake_memory: Any) -> None:
    fake_memory.hold(3 * GIB, 3 * GIB + GIB // 2)
    with (
        pytest.warns(UserWarning, match=r"Out of memory at step 0\. The batch: .* Evidence: .*oom"),
        pytest.raises(torch.OutOfMemoryError),
    ):
        fit(tmp_path, Small(2), OOMGuard())
    (path,) = (tmp_path / "oom").rglob("evidence.json")
    assert path.parent.name == "step=0-rank=0"
    told = json.loads(path.read_text())
    assert (told["asked"], told["free"]) == (2 * GIB, GIB)
    assert told["phase"] == "forward"
    assert told["batch"] == {"x": "[7, 3] float32", "y": "[7] float32"}
    rows = {(row["module"], row["what"]) for row in told["largest"]}
    assert ("first", "weight") in rows or len(told["largest"]) == 30
    assert told["mib_by_module"]


def test_the_module_under_way_is_named(tmp_path: Path) -> None:
    class Deep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError(MESSAGE)

    class Nested(Small):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(3, 3), Deep())

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.encoder(batch["x"]).sum()

    listening = Listening()
    with pytest.raises(torch.OutOfMemoryError):
        fit(tmp_path, Nested(), OOMGuard(), listening)
    assert "when it came to encoder.1" in listening.heard[0].fields["cause"]


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    class Wrong(Small):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise RuntimeError("shapes cannot be multiplied")

    for policy in ("raise", "skip", "split"):
        with pytest.raises(RuntimeError, match="shapes"):
            fit(tmp_path, Wrong(), OOMGuard(policy))  # type: ignore[arg-type]
    assert not (tmp_path / "oom").exists()


def test_a_full_disk_takes_the_evidence_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lightning_arrcoc.memory.evidence.write_atomically", full)
    model = Small(4)
    with pytest.warns(UserWarning, match="evidence could not be written: No space"):
        fit(tmp_path, model, OOMGuard("split"))
    assert len(model.gradients) == 3


def test_evidence_is_written_a_few_times_only(tmp_path: Path) -> None:
    fit(tmp_path, Small(1), OOMGuard("split", raise_after=1, reports=2), max_steps=6)
    assert len(list((tmp_path / "oom").rglob("evidence.json"))) == 2


# ------------------------------------------------------------------------------------ tensors


@pytest.mark.parametrize("fails_in", ["forward", "backward"])
@pytest.mark.parametrize("policy", ["raise", "skip", "split"])
def test_no_traceback_keeps_tensors_alive(tmp_path: Path, policy: Any, fails_in: str) -> None:
    class Failing(Small):
        def on_train_batch_end(self, *_: Any) -> None:
            alive.append(sum(one() is not None for one in self.made))
            self.made.clear()

    alive: list[int] = []
    model = Failing(4, fails_in)
    caught: BaseException | None = None
    gc.disable()
    try:
        fit(tmp_path, model, OOMGuard(policy))
    except torch.OutOfMemoryError as error:
        caught = error
        alive.append(sum(one() is not None for one in model.made))
    finally:
        gc.enable()
    assert (caught is not None) == (policy == "raise")
    assert alive[0] == 0


def test_without_the_guard_a_traceback_does(tmp_path: Path) -> None:
    model = Small(4)
    try:
        fit(tmp_path, model)
    except torch.OutOfMemoryError:
        assert model.made[0]() is not None


def test_an_atomic_checkpoint_is_saved_when_the_run_ends(tmp_path: Path) -> None:
    class Later(Small):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.limit = 0 if batch_idx == 2 else 100

    saver = AtomicCheckpoint(tmp_path / "saved", save_top_k=0)
    with pytest.raises(torch.OutOfMemoryError):
        fit(tmp_path, Later(), OOMGuard("split"), saver)
    (path,) = (tmp_path / "saved").iterdir()
    assert path.name == "emergency-step=2.ckpt"


# ----------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"policy": "retry"}, "policy='retry'; expected one of raise, skip, split"),
        ({"reduction": "median"}, "reduction='median'"),
        ({"raise_after": 0}, "raise_after=0"),
        ({"reports": -1}, "reports=-1"),
        ({"history_entries": -1}, "history_entries=-1"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        OOMGuard(**arguments)


def test_manual_optimization_is_refused_where_the_guard_would_act(tmp_path: Path) -> None:
    class Manual(Small):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            raise torch.OutOfMemoryError(MESSAGE)

    with pytest.raises(MisconfigurationException, match="optimizes by hand"):
        fit(tmp_path, Manual(), OOMGuard("split"))
    listening = Listening()
    with pytest.raises(torch.OutOfMemoryError):
        fit(tmp_path, Manual(), OOMGuard(), listening)
    assert listening.names() == ["ran_out"]


def test_two_guards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="another OOMGuard has them"):
        fit(tmp_path, Small(), OOMGuard("raise"), OOMGuard("split"))


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    trainer = fit(tmp_path, Small(2), OOMGuard("split"))
    loop = trainer.fit_loop.epoch_loop.automatic_optimization
    assert "_make_closure" not in vars(loop)
    guard = OOMGuard("split")
    for _ in range(2):
        fit(tmp_path, Small(2), guard)


# ------------------------------------------------------------------------------ two processes


@pytest.fixture
def two(run_program: Callable[..., Any]) -> Callable[..., Any]:
    def two(folder: Path, limits: str, policy: str, *more: str) -> Any:
        (folder / "script.py").write_text(script(folder, limits, policy, *more))
        return run_program(folder / "script.py", ranks=2)

    return two


def script(folder: Path, limits: str, policy: str, *more: str) -> str:
    return f"""
import sys, warnings
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch, lightning.pytorch as pl
import test_oom_guard as shared
from lightning_arrcoc.callbacks import AtomicCheckpoint, OOMGuard

class Uneven(shared.Small):
    def on_train_batch_start(self, batch, batch_idx):
        self.limit = {limits}[self.trainer.global_rank] if batch_idx >= 1 else 100

model = Uneven(fails_in={(more[0] if more else "forward")!r})
callbacks = [] if {policy!r} == "none" else [OOMGuard({policy!r})]
trainer = pl.Trainer(
    max_steps=3, accelerator="cpu", devices=2, strategy="ddp", logger=False, limit_val_batches=0,
    enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    callbacks=callbacks, use_distributed_sampler=False, default_root_dir={str(folder)!r},
    accumulate_grad_batches={more[1] if len(more) > 1 else "1"},
)
loader = shared.data(rows=6, batches=8)
if trainer.global_rank == 1:
    loader = shared.data(rows=5, batches=8)
trainer.fit(model, loader, loader)
torch.save(shared.weights(model), {str(folder)!r} + f"/weights-{{trainer.global_rank}}.pt")
"""


def saved(folder: Path, rank: int) -> Tensor:
    found: Tensor = torch.load(folder / f"weights-{rank}.pt", weights_only=True)
    return found


@pytest.mark.parametrize(("fails_in", "accumulate"), [("forward", "1"), ("backward", "2")])
def test_of_two_processes_each_splits_for_itself_and_the_gradient_is_the_same(
    tmp_path: Path, fails_in: str, accumulate: str, two: Callable[..., Any]
) -> None:
    (tmp_path / "bare").mkdir()
    bare = two(tmp_path / "bare", "[100, 100]", "none", fails_in, accumulate)
    done = two(tmp_path, "[100, 2]", "split", fails_in, accumulate)
    assert (bare.returncode, done.returncode) == (0, 0), done.stderr[-2000:]
    assert "Rank 1: out of memory" in done.stderr
    for rank in range(2):
        torch.testing.assert_close(
            saved(tmp_path, rank), saved(tmp_path / "bare", 0), rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("fails_in", ["forward", "backward"])
def test_when_one_of_two_cannot_go_on_both_stop_with_a_checkpoint(
    tmp_path: Path, fails_in: str, two: Callable[..., Any]
) -> None:
    done = two(tmp_path, "[100, 0]", "split", fails_in)
    assert done.returncode != 0
    (path,) = (tmp_path / "checkpoints").iterdir()
    assert path.name == "emergency-step=1.ckpt"
    assert "Tried to allocate" in done.stderr or "all stop together" in done.stderr


def test_skipping_is_refused_to_two_processes(tmp_path: Path, two: Callable[..., Any]) -> None:
    done = two(tmp_path, "[100, 0]", "skip")
    assert "serves one process; there are 2" in done.stderr


@pytest.mark.gpu
def test_on_a_gpu_a_real_failure_is_split_and_the_run_goes_on(tmp_path: Path) -> None:
    class Large(Small):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            free, _ = torch.cuda.mem_get_info()
            room = torch.empty(len(batch["x"]) * int(free / 5), dtype=torch.uint8, device="cuda")
            self.tried.append(len(batch["x"]))
            found = super().training_step(batch, batch_idx)
            del room
            return found

    model = Large()
    fit(tmp_path, model, OOMGuard("split"), accelerator="gpu")
    assert len(model.gradients) == 3
    (folder,) = {path.parent for path in (tmp_path / "oom").rglob("evidence.json")}
    assert {path.name for path in folder.iterdir()} == {
        "evidence.json", "snapshot.pickle", "snapshot.html",
    }  # fmt: skip
