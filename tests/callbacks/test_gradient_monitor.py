"""NaN planted everywhere, in real few-step runs, and what becomes of them."""

from __future__ import annotations

import math
import random
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from lightning_arrcoc.callbacks import GradientMonitor
from lightning_arrcoc.callbacks.gradients import watched_run
from lightning_arrcoc.events import Event
from lightning_arrcoc.plugins import SelectivePrecision

OPTIMIZERS: dict[str, Any] = {
    "fused AdamW": lambda p: AdamW(p, lr=0.01, fused=True),
    "unfused AdamW": lambda p: AdamW(p, lr=0.01, fused=False),
    "fused AMSGrad": lambda p: AdamW(p, lr=0.01, amsgrad=True, fused=True),
    "AMSGrad": lambda p: AdamW(p, lr=0.01, amsgrad=True, fused=False),
    "SGD with momentum": lambda p: SGD(p, lr=0.01, momentum=0.9),
    "fused SGD with momentum": lambda p: SGD(p, lr=0.01, momentum=0.9, fused=True),
}
BAD = 5  # batch


class Breaking(nn.Linear):
    """A layer whose output can be broken."""

    broken = False

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return found * math.nan if self.broken else found


class Planted(pl.LightningModule):
    """Breaks at a batch, by the Trainer's count, in a place."""

    def __init__(self, where: str = "", optimizer: str = "fused AdamW", bad: int = BAD) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.drop, self.second = nn.Dropout(0.5), Breaking(8, 1)
        self.mean = MeanMetric()
        self.where, self.make, self.bad = where, OPTIMIZERS[optimizer], bad
        self.runs: list[int] = []
        self.left_out: list[int] = []  # steps of a reference

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.runs.append(batch_idx)
        here = batch_idx == self.bad
        if here and self.where == "batch":
            batch = batch + math.inf
        self.second.broken = here and self.where == "output"
        hidden = torch.relu(self.norm(self.first(batch)))
        loss = self.second(self.drop(hidden)).square().mean()
        if here and self.where == "loss":
            loss = loss * math.nan
        if here and self.where == "spike":
            loss = loss * 1e6
        if here and self.where == "gradient":
            self.first.weight.register_hook(lambda g: g.clone().fill_(math.inf))
            loss = loss + 0 * self.first.weight.sum()
        self.mean.update(loss.detach().nan_to_num())
        self.log("loss", self.mean, on_step=False, on_epoch=True)
        self.log("batches", 1.0, on_step=False, on_epoch=True, reduce_fx="sum")
        return loss

    def on_fit_end(self) -> None:
        self.drawn = [*torch.rand(3).tolist(), random.random(), np.random.rand()]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.first.weight._backward_hooks = None  # the planted one

    def optimizer_step(self, epoch: Any, batch_idx: Any, optimizer: Any, closure: Any) -> None:
        if batch_idx in self.left_out:
            closure()
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        found: torch.optim.Optimizer = self.make(self.parameters())
        return found


class Listening(pl.Callback):
    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]


def fit(
    module: pl.LightningModule, *callbacks: pl.Callback, steps: int = 12, **options: Any
) -> pl.Trainer:
    settings = {
        "max_steps": steps, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1,
        "callbacks": list(callbacks),
    } | options  # fmt: skip
    checkpoint = settings.pop("ckpt_path", None)
    trainer = pl.Trainer(**settings)  # type: ignore[arg-type]
    torch.manual_seed(1)
    data = torch.randn(400, 4, generator=torch.Generator().manual_seed(2))
    with isolated():
        trainer.fit(module, DataLoader(data, batch_size=4), ckpt_path=checkpoint)
    return trainer


@contextmanager
def told(*patterns: str) -> Iterator[None]:
    """That all of these are warned of, and whatever else."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
    words = "\n".join(str(warning.message) for warning in seen)
    for pattern in patterns:
        assert re.search(pattern, words), words


def isolated() -> Any:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    return torch.random.fork_rng()


def everything(trainer: pl.Trainer) -> list[Tensor]:
    """Weights, buffers and moments."""
    module, optimizer = trainer.lightning_module, trainer.optimizers[0]
    moments = [v for state in optimizer.state.values() for v in state.values()]
    return [*module.parameters(), *moments]


def all_finite(trainer: pl.Trainer) -> bool:
    return all(bool(t.isfinite().all()) for t in everything(trainer) if torch.is_tensor(t))


# ---------------------------------------------------------------------------------- planted NaN


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("where", ["loss", "output", "gradient"])
def test_a_bad_step_is_as_if_it_had_never_been(where: str, optimizer: str) -> None:
    """Weights and moments equal, bit for bit, those of a run that leaves out the step."""
    module = Planted(where, optimizer)
    with told("Step 5 is not finite"):
        found = fit(module, monitor := GradientMonitor("skip"), gradient_clip_val=1.0)
    reference = Planted("", optimizer)
    reference.left_out = [BAD]
    expected = fit(reference, gradient_clip_val=1.0)
    pairs = list(zip(everything(found), everything(expected), strict=True))
    assert len(pairs) > 6
    assert where == "output" or all(torch.equal(a, b) for a, b in pairs)
    assert all_finite(found)
    assert found.callback_metrics["grad/skipped_steps"] == 1
    assert monitor.stop_reason == ""


@pytest.mark.parametrize("optimizer", ["fused AdamW", "SGD with momentum"])
def test_without_it_the_run_is_lost(optimizer: str) -> None:
    """The control of the test above."""
    assert not all_finite(fit(Planted("loss", optimizer)))


@pytest.mark.parametrize("optimizer", ["fused SGD with momentum", "fused AdamW"])
def test_a_bad_first_step_leaves_no_rubbish_in_momentum(optimizer: str) -> None:
    with told("Step 0 is not finite"):
        found = fit(Planted("loss", optimizer, bad=0), GradientMonitor("skip"))
    reference = Planted("", optimizer)
    reference.left_out = [0]
    pairs = zip(everything(found), everything(fit(reference)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("optimizer", ["fused AdamW", "unfused AdamW", "SGD with momentum"])
@pytest.mark.parametrize("bad", [3, 4, 5])
def test_one_micro_batch_condemns_the_step_that_it_belongs_to(optimizer: str, bad: int) -> None:
    module = Planted("loss", optimizer, bad=bad)
    with told("Step 1 is not finite"):
        found = fit(module, GradientMonitor("skip"), steps=4, accumulate_grad_batches=3)
    assert all_finite(found)
    assert found.callback_metrics["grad/skipped_steps"] == 1
    assert found.global_step == 4


def test_logging_changes_nothing_even_when_it_looks(tmp_path: Path) -> None:
    """Weights are NaN alike, and buffers, metrics and random numbers are those of a bare run."""
    with told("Step 5 is not finite"):
        watched = fit(Planted("gradient"), GradientMonitor())
    bare = fit(Planted("gradient"))
    for a, b in zip(everything(watched), everything(bare), strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    ours, theirs = watched.lightning_module, bare.lightning_module
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    assert isinstance(ours, Planted)
    assert isinstance(theirs, Planted)
    assert ours.runs == theirs.runs  # the batch that was run twice is forgotten
    for name in ("loss", "batches"):
        assert float(watched.callback_metrics[name]) == float(bare.callback_metrics[name])
    assert ours.drawn == theirs.drawn


# -------------------------------------------------------------------------------- what is named


@pytest.mark.parametrize("late", [False, True], ids=["at once", "a step late"])
@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("batch", "that is not finite is that of 'first' .Linear., which was handed it"),
        ("output", "that of 'second' .Breaking."),
        ("loss", "Every module's output is finite, the loss made of them is not"),
        ("gradient", "it arises in the backward pass.* that are not: first.weight"),
    ],
)
def test_it_says_where_it_began(
    where: str, words: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU it is known a step later; the batch is run again with weights of that step."""
    if late:
        monkeypatch.setattr(watched_run, "knows_at_once", lambda *_: False)
    listening = Listening()
    if where == "gradient" and late:
        words = "it arises in the backward pass"  # small ones are told apart while they are there
    with told(f"Step 5 is not finite.*{words}.*was skipped"):
        fit(Planted(where), GradientMonitor("skip"), listening)
    assert listening.names == ["gradient/nonfinite_found", "batch/skipped"]
    assert listening.events[0].fields["at_step"] == BAD


def test_weights_that_are_lost_are_told_from_outputs() -> None:
    module = Planted()
    with torch.no_grad():
        module.first.bias[0] = math.nan
    with told("'first' .Linear., whose own weights are not finite"):
        fit(module, GradientMonitor(), steps=2)


def test_a_batch_that_is_bad_itself_is_told() -> None:
    data = torch.randn(8, 4)
    data[5] = math.nan
    trainer = pl.Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[GradientMonitor("skip")],
    )  # fmt: skip
    with told("Batch 2 itself is not finite"):
        trainer.fit(Planted(), DataLoader(data, batch_size=2))


def test_a_compiled_module_is_looked_into_without_compiling_it_again() -> None:
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph

    module = Planted("batch")
    module.first = Breaking(4, 8)  # torch compiles no Linear for itself
    module.first.compile(backend=backend)
    with told("that of 'first' .Breaking."):
        fit(module, GradientMonitor("skip"))
    assert len(compiled) == 1


def test_not_looking_is_an_option() -> None:
    module = Planted("output")
    with told("Step 5 is not finite. Gradients that are not: first"):
        fit(module, GradientMonitor("skip", find_module=False))


# ------------------------------------------------------------------------------ spikes, stopping


@pytest.mark.parametrize("optimizer", ["fused AdamW", "unfused AdamW"])
def test_a_spike_is_skipped(optimizer: str) -> None:
    monitor, listening = GradientMonitor("skip", window=4), Listening()
    with told("Step 5 is a spike: gradient norm .* and loss .*skipped"):
        found = fit(Planted("spike", optimizer), monitor, listening)
    reference = Planted("", optimizer)
    reference.left_out = [BAD]
    for a, b in zip(everything(found), everything(fit(reference)), strict=True):
        assert torch.equal(a, b)
    assert listening.names == ["gradient/spike_found", "batch/skipped", "gradient/exploding"]


def test_a_spike_may_be_logged_where_nan_is_skipped() -> None:
    monitor = GradientMonitor("skip", spike_policy="log", window=4)
    with told("Step 5 is a spike"):
        found = fit(Planted("spike"), monitor)
    assert found.callback_metrics["grad/spikes"] == 1
    assert found.callback_metrics["grad/skipped_steps"] == 0


@pytest.mark.parametrize("where", ["loss", "spike"])
def test_the_run_stops_with_a_reason_and_good_weights(where: str) -> None:
    monitor, listening = GradientMonitor("stop", window=4), Listening()
    with told("GradientMonitor stops the run: step 5 is"):
        found = fit(Planted(where), monitor, listening)
    assert found.global_step == BAD + 2  # known a step later
    assert "step 5 is" in monitor.stop_reason
    assert (
        listening.names[-2:] == ["run/stopped", "run/stopped"] or "run/stopped" in listening.names
    )
    assert all_finite(found)


def test_patience_ends() -> None:
    module = Planted()
    with torch.no_grad():
        module.first.weight.fill_(math.nan)
    monitor = GradientMonitor("skip", patience=3)
    with told("3 steps in a row were skipped, up to step 2"):
        found = fit(module, monitor)
    assert found.global_step == 4


def test_exploding_and_vanishing_are_told_once_an_episode() -> None:
    factors = [1.0] * 6 + [1e3] * 3 + [1.0] * 6 + [1e-4] * 3

    class Scaled(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return (self.weight * factors[batch_idx]).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return SGD(self.parameters(), lr=0.0)

    listening = Listening()
    with told("exploding at step 6.*Lower the learning rate", "vanishing at step 15.*saturated"):
        fit(Scaled(), GradientMonitor(window=6), listening, steps=len(factors))
    names = ("gradient/exploding", "gradient/vanishing")
    episodes = [event for event in listening.events if event.name in names]
    assert [(event.name, event.fields["at_step"]) for event in episodes] == [
        ("gradient/exploding", 6),
        ("gradient/vanishing", 15),
    ]


# ---------------------------------------------------------------------------------- what is logged


def test_few_keys_are_logged_a_step_after_their_own(tmp_path: Path) -> None:
    class Norms(pl.Callback):
        def __init__(self) -> None:
            self.norms: list[float] = []

        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            gradients = [p.grad for p in module.parameters()]
            self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    class Remembering(CSVLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            rows.append({**metrics, "step": step})

    rows: list[dict[str, Any]] = []
    logger, norms = Remembering(tmp_path), Norms()
    monitor = GradientMonitor(update_ratio_every_n_steps=3)
    limit = 1.0
    fit(Planted(), norms, monitor, steps=9, logger=logger, gradient_clip_val=limit,
        log_every_n_steps=2)  # fmt: skip
    logged = [row for row in rows if "grad/norm" in row]
    assert [row["step"] for row in logged] == [1, 3, 5, 7]
    assert [row["grad/norm"] for row in logged] == pytest.approx(norms.norms[:8:2], rel=1e-5)
    shares = [sum(n > limit for n in norms.norms[:k]) / k for k in (1, 3, 5, 7)]
    assert [row["grad/clip_fraction"] for row in logged] == pytest.approx(shares)
    assert set(logged[-1]) - {"step", "epoch"} == {
        "grad/norm", "grad/nonfinite_steps", "grad/skipped_steps", "grad/spikes",
        "grad/clip_fraction", "grad/update_ratio",
        *(f"grad/norm_group/{name}" for name in ("first", "norm", "second")),
    }  # fmt: skip


def test_the_update_ratio_is_that_of_the_weights() -> None:
    class Half(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((4,), 2.0))

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return self.weight.sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return SGD(self.parameters(), lr=1.0)

    found = fit(Half(), GradientMonitor(), steps=4)
    assert found.callback_metrics["grad/update_ratio"] == 1.0  # from 2 to 1


def test_several_optimizers_are_told_apart() -> None:
    class Two(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.a, self.b = nn.Linear(4, 1), nn.Linear(4, 1)

        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            for part, optimizer in zip((self.a, self.b), self.optimizers(), strict=True):
                optimizer.zero_grad()
                factor = math.nan if part is self.b and batch_idx == 2 else 1.0
                self.manual_backward(part(batch).square().mean() * factor)
                optimizer.step()

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [AdamW(self.a.parameters(), fused=True), SGD(self.b.parameters(), lr=0.01)]

    module = Two()
    words = "Step 5 is not finite. The module is not searched for, because of manual optimization"
    with told(words):
        found = fit(module, GradientMonitor("skip"))
    assert all(p.isfinite().all() for p in module.parameters())
    assert found.callback_metrics["grad/optimizer_0/skipped_steps"] == 0
    assert found.callback_metrics["grad/optimizer_1/skipped_steps"] == 1


def test_parameters_that_join_later_are_watched() -> None:
    class Growing(Planted):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return SGD(self.first.parameters(), lr=0.01)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 3:
                self.trainer.optimizers[0].add_param_group({"params": self.second.parameters()})

    found = fit(Growing(), GradientMonitor("skip"))
    assert {"grad/norm_group/first", "grad/norm_group/second"} <= set(found.callback_metrics)


# -------------------------------------------------------------------------- scalers and refusals


@pytest.mark.parametrize("optimizer", ["fused AdamW", "unfused AdamW"])
def test_norms_are_without_the_scalers_scale(optimizer: str) -> None:
    def run(*plugins: Any) -> pl.Trainer:
        module = Planted("", optimizer)
        return fit(module, GradientMonitor(window=4), steps=4, plugins=list(plugins))

    scaler = torch.amp.GradScaler(device="cpu", init_scale=1024.0)
    scaled = run(Scaling(scaler)).callback_metrics
    plain = run().callback_metrics
    assert float(scaled["grad/norm"]) == pytest.approx(float(plain["grad/norm"]), rel=1e-4)
    assert float(scaler.get_scale()) == 1024.0


class Scaling(MixedPrecision):
    """A GradScaler around computations in fp32, to compare with."""

    def __init__(self, scaler: Any) -> None:
        super().__init__("16-mixed", "cpu", scaler)

    def autocast_context_manager(self) -> Any:
        return torch.autocast("cpu", enabled=False)


@pytest.mark.parametrize("optimizer", ["fused AdamW", "unfused AdamW"])
def test_a_scalers_overflow_is_counted_and_stops_nothing(optimizer: str) -> None:
    scaler = torch.amp.GradScaler(device="cpu", init_scale=1024.0)
    monitor, listening = GradientMonitor("stop", spike_policy="log"), Listening()
    found = fit(Planted("gradient", optimizer), monitor, listening, plugins=[Scaling(scaler)])
    assert found.global_step == 12
    assert found.callback_metrics["grad/skipped_steps"] == 1
    assert listening.names == ["batch/skipped"]
    assert float(scaler.get_scale()) == 512.0
    assert all_finite(found)


def test_a_loss_that_is_nan_stops_also_under_a_scaler() -> None:
    scaler = torch.amp.GradScaler(device="cpu", init_scale=1024.0)
    with told("step 5 is not finite"):
        found = fit(Planted("loss"), GradientMonitor("stop", "log"), plugins=[Scaling(scaler)])
    assert found.global_step == 7


def test_under_a_scaler_a_spike_is_skipped_or_it_is_said_that_it_cannot_be() -> None:
    def run(optimizer: str) -> float:
        scaler = torch.amp.GradScaler(device="cpu", init_scale=1024.0)
        module = Planted("spike", optimizer)
        found = fit(module, GradientMonitor("skip", window=4), plugins=[Scaling(scaler)])
        return float(found.callback_metrics["grad/skipped_steps"])

    with told("Step 5 is a spike.*was skipped"):
        assert run("unfused AdamW") == 1
    with told("only logs spikes here: under a GradScaler"):
        assert run("fused AdamW") == 0


@pytest.mark.parametrize("optimizer", ["fused AdamW", "unfused AdamW"])
@pytest.mark.parametrize("where", ["spike", "gradient"])
def test_a_scaler_that_unscales_first_leaves_skipping_to_the_monitor(
    where: str, optimizer: str
) -> None:
    """As that of `SelectivePrecision` does, for fused optimizers too."""
    layers = ["first", "norm", "drop", "second"]

    def run(module: Planted) -> pl.Trainer:
        monitor = GradientMonitor("skip", window=4)
        return fit(module, monitor, plugins=[SelectivePrecision("16-mixed", keep_fp32=layers)])

    reference = Planted("", optimizer)
    reference.left_out = [BAD]
    expected = run(reference)
    with told("Step 5") if where == "spike" else nullcontext():
        found = run(Planted(where, optimizer))
    assert found.callback_metrics["grad/skipped_steps"] == 1
    pairs = zip(everything(found), everything(expected), strict=True)
    assert all(torch.allclose(a, b) for a, b in pairs)


def test_lbfgs_is_left_alone() -> None:
    class Newton(Planted):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.LBFGS(self.parameters(), max_iter=2)

    with told("does nothing in this run: LBFGS evaluates"):
        found = fit(Newton(), GradientMonitor("skip"), steps=2)
    assert "grad/norm" not in found.callback_metrics


def test_an_unknown_strategy_is_left_alone() -> None:
    class Own(pl.strategies.Strategy):
        pass

    class Elsewhere(pl.strategies.SingleDeviceStrategy):
        pass

    from lightning_arrcoc.callbacks.gradients.sharding import copies_of

    class Stub:
        strategy = object.__new__(type("Own", (), {}))

    with pytest.raises(ValueError, match="how Own spreads gradients is not known"):
        copies_of(Stub())  # type: ignore[arg-type]
    Stub.strategy = Elsewhere("cpu")
    assert copies_of(Stub()) is None  # type: ignore[arg-type]


def test_deepspeeds_own_norm_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its engine needs GPUs; one that tells a norm after the step stands for it."""
    norms = iter([1.0] * 8 + [math.nan] * 20)

    class Engine:
        def get_global_grad_norm(self) -> float:
            return next(norms)

    class Starting(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            monkeypatch.setattr(
                watched_run, "EngineNorms",
                lambda engine, device, made=watched_run.EngineNorms: made(Engine(), device),
            )  # fmt: skip

    monkeypatch.setattr(watched_run, "DeepSpeedStrategy", pl.strategies.SingleDeviceStrategy)
    monitor = GradientMonitor("stop")
    with told("skips no step under DeepSpeed", "stops the run: step 8 is not finite"):
        found = fit(Planted(), Starting(), monitor)
    assert "step 8 is not finite" in monitor.stop_reason
    assert found.callback_metrics["grad/norm"] != 1.0
    assert found.global_step == 10


def test_histograms_are_drawn_on_request_alone() -> None:
    class Wandb(CSVLogger):
        watched: list[Any] = []  # noqa: RUF012

        def watch(self, model: Any, log: str, log_freq: int) -> None:
            self.watched.append((type(model), log, log_freq))

        @property
        def experiment(self) -> Any:
            return self

        def unwatch(self, model: Any) -> None:
            self.watched.append("unwatched")

        def log_metrics(self, *_: Any, **__: Any) -> None:
            pass

        log_hyperparams = log_graph = save = finalize = log_metrics

    logger = Wandb("unused")
    fit(Planted(), GradientMonitor(), steps=1, logger=logger)
    assert logger.watched == []
    fit(Planted(), GradientMonitor(watch="gradients"), steps=1, logger=logger)
    assert logger.watched == [(Planted, "gradients", 1), "unwatched"]
    with pytest.raises(MisconfigurationException, match="the Trainer has no WandbLogger"):
        fit(Planted(), GradientMonitor(watch="all"), steps=1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"policy": "halt"}, "policy='halt'; expected one of log, skip, stop"),
        ({"spike_policy": "no"}, "spike_policy='no'; expected"),
        ({"patience": 0}, "patience=0; expected a whole number, 1 or more"),
        ({"window": 1}, "window=1; expected a whole number, 2 or more"),
        ({"warmup": -1}, "warmup=-1; expected"),
        ({"sigma": 0.0}, "sigma=0.0; expected a number above 0"),
        ({"groups": "head.*"}, r"groups='head.\*'; expected how many parts"),
        ({"groups": True}, "groups=True; expected"),
        ({"update_ratio_every_n_steps": 1.5}, "update_ratio_every_n_steps=1.5; expected"),
        ({"watch": "weights"}, "watch='weights'; expected one of None, gradients"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GradientMonitor(**settings)


# ------------------------------------------------------------------------------ state, contract


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_what_it_knows_survives_a_resume_bit_for_bit(tmp_path: Path) -> None:
    class Saver(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 6:
                trainer.save_checkpoint(tmp_path / "six.ckpt")

    def flat(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [x for key in sorted(value, key=str) for x in flat(value[key])]
        return value.tolist() if isinstance(value, Tensor) else [value]

    class Ordered(Planted):
        """Draws batches by the Trainer's count: the loader starts anew on a resume."""

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            seed = torch.Generator().manual_seed(self.trainer.global_step)
            x = torch.randn(4, 4, generator=seed)
            loss = self.second(torch.relu(self.first(x))).square().mean()
            return loss * (math.nan if self.trainer.global_step == 5 else 1.0)

    monitor = GradientMonitor("skip", window=4)
    with told("Step 5 is not finite"):
        whole = fit(Ordered(), monitor, Saver())
    resumed_monitor = GradientMonitor("skip", window=4)
    with told("Step 5 is not finite"):  # it was under way
        resumed = fit(Ordered(), resumed_monitor, ckpt_path=tmp_path / "six.ckpt")
    ours, theirs = flat(resumed_monitor.state_dict()), flat(monitor.state_dict())
    assert str(ours) == str(theirs)
    assert len(ours) > 15
    for a, b in zip(everything(whole), everything(resumed), strict=True):
        assert torch.equal(a, b)
    assert {**whole.callback_metrics} == {**resumed.callback_metrics}


def test_another_shape_of_state_has_another_key() -> None:
    keys = {
        GradientMonitor(**settings).state_key
        for settings in ({}, {"groups": 2}, {"window": 64}, {"policy": "skip"})  # type: ignore[arg-type]
    }
    assert len(keys) == 3


def test_it_fits_twice_and_begins_anew() -> None:
    monitor = GradientMonitor("skip")
    with told("Step 5 is not finite"):
        fit(Planted("loss"), monitor)
    second = fit(Planted(), monitor)
    assert second.callback_metrics["grad/skipped_steps"] == 0


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_behind(fails: bool) -> None:
    class Failing(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if fails and trainer.global_step == BAD + 2:  # told by then
                raise RuntimeError("of our own")

    module, monitor = Planted("output"), GradientMonitor("skip")
    with told("Step 5 is not finite"), suppress(RuntimeError):
        fit(module, monitor, Failing())
    assert not any(part._forward_hooks for part in module.modules())
    assert "log" not in vars(module)
    assert not hasattr(module.trainer.optimizers[0], "found_inf")
    assert set(monitor.state_dict()) == {"optimizers", "stop_reason"}


@pytest.mark.gpu
def test_on_a_gpu_nothing_waits_that_did_not_wait_before() -> None:
    def waits(*callbacks: pl.Callback) -> int:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                fit(Planted(), *callbacks, steps=30, accelerator="gpu", devices=1,
                    log_every_n_steps=100)  # fmt: skip
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in seen)

    bare = waits()
    few = 10  # at the beginning, when tables of groups are made
    assert waits(GradientMonitor("skip", update_ratio_every_n_steps=0)) <= bare + few
    assert waits(GradientMonitor("log")) <= bare + few
