"""Pace by a clock that tests turn themselves; figures are worked by hand."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_arrcoc.callbacks import ThroughputMonitor, throughput_monitor
from lightning_arrcoc.callbacks.throughput.clocks import HostClock, Mark
from lightning_arrcoc.callbacks.throughput.counting import counts_of, leading_dimension
from lightning_arrcoc.callbacks.throughput.fetching import FetchListener
from lightning_arrcoc.callbacks.throughput.ledger import SmoothedLoss, Stragglers
from lightning_arrcoc.callbacks.throughput.rates import learning_rates


class Time:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def passes(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(throughput_monitor, "clock_of", lambda device: HostClock(clock))
    return clock


class Samples(torch.utils.data.Dataset[Tensor]):
    """Four numbers a sample, each of which takes a while to load."""

    def __init__(self, time: Time | None = None, load_s: float = 0.0, length: int = 400) -> None:
        self.time, self.load_s, self.length = time, load_s, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        if self.time is not None:
            self.time.passes(self.load_s)
        return torch.ones(4)


class Timed(pl.LightningModule):
    """A step takes as long as its test wants, and has the loss that it wants."""

    def __init__(
        self, time: Time, step_s: Callable[[int], float] = lambda number: 1.0, loss: Any = None
    ) -> None:
        super().__init__()
        self.time, self.step_s, self.loss = time, step_s, loss
        self.weight = nn.Parameter(torch.zeros(4))
        self.batches = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.time.passes(self.step_s(self.batches))
        wanted = self.loss(self.batches) if callable(self.loss) else 0.0
        self.batches += 1
        return None if wanted is None else self.weight.sum() * 0 + wanted

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.time.passes(1000)

    def on_validation_epoch_end(self) -> None:
        self.time.passes(500)

    def val_dataloader(self) -> Any:
        return DataLoader(torch.zeros(4, 4))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Lines(pl.Callback):
    """What stood in the callback metrics after each batch."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.found.append(
            {
                key.removeprefix("throughput/"): float(value)
                for key, value in trainer.callback_metrics.items()
                if key.startswith("throughput/")
            }
        )


def fit(
    module: pl.LightningModule, data: Any, monitor: ThroughputMonitor | None = None, **options: Any
) -> list[dict[str, float]]:
    settings: dict[str, Any] = {"max_steps": 6, "log_every_n_steps": 2, "logger": False} | options
    lines = Lines()
    trainer = pl.Trainer(
        accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[monitor or ThroughputMonitor(), lines],
        limit_val_batches=2, **settings,
    )  # fmt: skip
    trainer.fit(module, data)
    return lines.found


# ------------------------------------------------------------------------------------------ pace


def test_a_window_is_worked_out_by_hand(time: Time) -> None:
    """Eight samples of 0.05 s are loaded in 0.4 s, a step computes for 1.6 or 3.6 s."""
    model = Timed(time, lambda number: 3.6 if number == 3 else 1.6)
    found = fit(model, DataLoader(Samples(time, 0.05), batch_size=8), max_steps=4)
    assert found[:3] == [{}, {}, {}]  # two steps of warm-up, and a line every two
    line = found[3]
    assert line["samples_per_s"] == pytest.approx(16 / 6.0)
    assert line["data_wait_percent"] == pytest.approx(100 * 0.8 / 6.0)
    assert line["step_p50_ms"] == pytest.approx(3000)
    assert line["step_p95_ms"] == pytest.approx(2000 + 0.95 * 2000)
    assert line["lr"] == pytest.approx(0.1)
    assert "mfu" not in line
    assert "tokens_per_s" not in line


def test_the_first_steps_are_warm_up(time: Time) -> None:
    model = Timed(time, lambda number: 500.0 if number < 3 else 1.0)
    found = fit(model, DataLoader(Samples(), batch_size=8), ThroughputMonitor(warmup_steps=3))
    assert found[3]["step_p95_ms"] == pytest.approx(1000)


def test_steps_are_the_optimizer_s_where_batches_are_accumulated(time: Time) -> None:
    found = fit(
        Timed(time, loss=lambda number: 6.0), DataLoader(Samples(), batch_size=8),
        accumulate_grad_batches=3,
    )  # fmt: skip
    line = found[11]  # the twelfth batch ends the fourth step
    assert line["step_p50_ms"] == pytest.approx(3000)
    assert line["samples_per_s"] == pytest.approx(8)
    assert line["smoothed_loss"] == pytest.approx(6)


@pytest.mark.parametrize("every", [1, 3])
def test_validation_does_not_count(every: int, time: Time) -> None:
    found = fit(
        Timed(time), DataLoader(Samples(time, 0.125), batch_size=8), max_steps=8,
        val_check_interval=every, check_val_every_n_epoch=None,
    )  # fmt: skip
    assert found[-1]["step_p95_ms"] == pytest.approx(2000)
    assert found[-1]["samples_per_s"] == pytest.approx(4)
    assert found[-1]["data_wait_percent"] == pytest.approx(50)


def test_validation_at_the_end_of_an_epoch_does_not_count(time: Time) -> None:
    data = DataLoader(Samples(time, 0.125, length=24), batch_size=8)
    found = fit(Timed(time), data, max_steps=8)
    assert found[-1]["step_p95_ms"] == pytest.approx(2000)
    assert found[-1]["data_wait_percent"] == pytest.approx(50)


def test_a_line_has_as_many_steps_as_were_asked_for(time: Time) -> None:
    found = fit(
        Timed(time), DataLoader(Samples(), batch_size=8), ThroughputMonitor(5, warmup_steps=0),
        max_steps=8,
    )  # fmt: skip
    assert [bool(line) for line in found] == [False] * 5 + [True] * 3


def test_a_loader_without_a_length_is_waited_for_alike(time: Time) -> None:
    class Endless(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            while True:
                time.passes(0.125)
                yield torch.ones(4)

    found = fit(Timed(time), DataLoader(Endless(), batch_size=8), val_check_interval=100)
    assert found[-1]["data_wait_percent"] == pytest.approx(50)


def test_the_table_lies_in_the_logger_as_in_the_callback_metrics(
    time: Time, tmp_path: Path
) -> None:
    logger = CSVLogger(tmp_path, "csv", "one")
    found = fit(Timed(time), DataLoader(Samples(), batch_size=8), logger=logger)
    keys = (tmp_path / "csv/one/metrics.csv").read_text().splitlines()[0].split(",")
    assert {f"throughput/{name}" for name in found[-1]} <= set(keys)


# ------------------------------------------------------------------------------ losses and rates


def test_the_loss_is_smoothed_and_what_is_not_finite_left_out(time: Time) -> None:
    losses = [9, 9, 1.0, math.nan, 3.0, math.inf]
    found = fit(
        Timed(time, loss=losses.__getitem__), DataLoader(Samples(), batch_size=8),
        ThroughputMonitor(smoothing_steps=10, tokens=len),
    )  # fmt: skip
    assert found[3]["smoothed_loss"] == pytest.approx(1.0)
    kept = 0.9**2  # of a window of two steps
    expected = (kept * (1 - kept) * 1 + (1 - kept) * 3) / (kept * (1 - kept) + 1 - kept)
    assert found[5]["smoothed_loss"] == pytest.approx(expected)
    assert found[5]["perplexity"] == pytest.approx(math.exp(expected))


def test_perplexity_is_for_tokens_alone_and_can_be_left_out(time: Time) -> None:
    data = DataLoader(Samples(), batch_size=8)
    assert "perplexity" not in fit(Timed(time), data)[-1]
    monitor = ThroughputMonitor(tokens=len, perplexity=False)
    assert "perplexity" not in fit(Timed(time), data, monitor)[-1]


def test_an_exploded_loss_has_a_perplexity_still() -> None:
    smoothed = SmoothedLoss(10)
    smoothed.add(1e6, 1)
    assert smoothed.perplexity is not None
    assert math.isfinite(smoothed.perplexity)


def test_a_run_without_a_loss_is_measured_and_that_is_said_once(
    time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        found = fit(Manual(time), DataLoader(Samples(), batch_size=8), max_steps=16)
    assert "smoothed_loss" not in found[-1]
    said = [r.getMessage() for r in caplog.records if "ThroughputMonitor" in r.getMessage()]
    assert len(said) == 1
    assert "loss (Manual.training_step returned none that is finite)" in said[0]
    assert "MFU (Manual has neither flops_per_batch" in said[0]
    assert "tokens (no input_ids" in said[0]


class Manual(Timed):
    """Two optimizers, by hand, and no loss returned."""

    def __init__(self, time: Time) -> None:
        super().__init__(time)
        self.automatic_optimization = False
        self.other = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer, weight in zip(
            self.optimizers(), (self.weight, self.other), strict=True  # type: ignore[arg-type]
        ):  # fmt: skip
            self.time.passes(0.5)
            optimizer.zero_grad()
            self.manual_backward((weight * 2).sum())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([self.weight], 0.1), torch.optim.SGD([self.other], 0.2)]


def test_several_optimizers_step_once_a_batch_and_have_a_rate_each(time: Time) -> None:
    line = fit(Manual(time), DataLoader(Samples(), batch_size=8), max_steps=16)[-1]
    assert line["step_p50_ms"] == pytest.approx(1000)
    rates = (line["optimizer_0/lr"], line["optimizer_1/lr"])
    assert rates == pytest.approx((0.1, 0.2))


def test_groups_have_a_rate_of_their_own_where_it_differs() -> None:
    parts = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 1.0, 0.5)]
    assert learning_rates([torch.optim.SGD(parts)]) == {"lr": 1.0, "lr_group_2": 0.5}


def test_the_smoothed_loss_goes_on_in_a_resumed_run(time: Time, tmp_path: Path) -> None:
    data = DataLoader(Samples(), batch_size=8)
    one, two = ThroughputMonitor(), ThroughputMonitor()
    trainer = pl.Trainer(
        max_steps=6, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[one],
        log_every_n_steps=2, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(Timed(time, loss=lambda number: 5.0), data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    two.load_state_dict(torch.load(tmp_path / "a.ckpt")["callbacks"][one.state_key])
    assert two.state_dict() == one.state_dict()
    assert two.state_dict()["smoothed"]["weight"] > 0


def test_another_run_begins_anew(time: Time) -> None:
    monitor = ThroughputMonitor()
    data = DataLoader(Samples(), batch_size=8)
    fit(Timed(time, loss=lambda number: 5.0), data, monitor)
    assert fit(Timed(time, loss=lambda number: 1.0), data, monitor)[-1][
        "smoothed_loss"
    ] == pytest.approx(1)


# -------------------------------------------------------------------------------------- counting


def test_samples_and_tokens_are_found_in_a_batch_of_token_ids(time: Time) -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    counts = counts_of(Timed(time), {"input_ids": torch.zeros(2, 3), "attention_mask": mask})
    assert {name: int(value) for name, value in counts.items()} == {"samples": 2, "tokens": 3}
    assert counts_of(Timed(time), {"input_ids": torch.zeros(2, 3)})["tokens"] == 6


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (torch.zeros(3, 2), 3),
        (torch.tensor(1.0), 1),
        (["a", {"x": [torch.zeros(5)]}], 5),
        ({"names": ["a", "b"], "y": torch.zeros(2, 9)}, 2),
        (("a", 1, None), None),
    ],
)
def test_samples_are_the_leading_dimension_of_the_first_tensor(batch: Any, expected: Any) -> None:
    assert leading_dimension(batch) == expected


def test_callables_have_the_first_word(time: Time) -> None:
    found = counts_of(Timed(time), torch.zeros(3, 2), lambda batch: 30, lambda batch: 60)
    assert found == {"samples": 30, "tokens": 60}


class Counting(Timed):
    """Knows its tokens, and its arithmetic."""

    def batch_counts(self, batch: Tensor) -> dict[str, Any]:
        return {
            "text_tokens": torch.tensor(10),
            "visual_tokens": 20,
            "visual_tokens_saved": 180,
            "flops": 5e9,
        }


def test_a_module_tells_kinds_of_tokens_and_flops(time: Time) -> None:
    data = DataLoader(Samples(), batch_size=8)
    line = fit(Counting(time, lambda number: 2.0), data, ThroughputMonitor(peak_flops=1e10))[-1]
    assert line["samples_per_s"] == pytest.approx(4)
    assert line["tokens_per_s"] == pytest.approx(15)
    assert line["text_tokens_per_s"] == pytest.approx(5)
    assert line["visual_tokens_per_s"] == pytest.approx(10)
    assert line["visual_tokens_saved_per_s"] == pytest.approx(90)
    assert line["mfu"] == pytest.approx(0.25)


def test_flops_without_a_peak_are_no_mfu_and_that_is_said(
    time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        line = fit(Counting(time), DataLoader(Samples(), batch_size=8))[-1]
    assert "mfu" not in line
    assert "the peak of this device is not known; pass peak_flops=" in caplog.text


def as_attribute(model: Any) -> None:
    model.flops_per_batch = 7


def as_method(model: Any) -> None:
    model.flops_per_batch = lambda: 7


def as_method_of_a_batch(model: Any) -> None:
    model.flops_per_batch = lambda batch: 7 * len(batch) // 3


@pytest.mark.parametrize("give", [as_attribute, as_method, as_method_of_a_batch])
def test_flops_are_told_as_an_attribute_or_a_method(give: Any, time: Time) -> None:
    model = Timed(time)
    give(model)
    assert counts_of(model, torch.zeros(3, 2))["flops"] == 7


def test_a_count_that_nobody_knows_is_refused(time: Time) -> None:
    class Wrong(Timed):
        def batch_counts(self, batch: Tensor) -> dict[str, int]:
            return {"visual_token": 1}

    with pytest.raises(ValueError, match=r"tells 'visual_token'.*Did you mean 'visual_tokens'"):
        fit(Wrong(time), DataLoader(Samples(), batch_size=8))


def test_a_batch_that_is_none_counts_for_nothing(time: Time) -> None:
    assert counts_of(Timed(time), None) == {}


# ------------------------------------------------------------------------- a device, and its end


class FakeEvents(HostClock):
    """A device that is behind: moments are past when the test lets them."""

    is_late = True

    def __init__(self, time: Time) -> None:
        super().__init__(time)
        self.reached_s = math.inf
        self.asked_early = False

    def is_past(self, mark: Mark) -> bool:
        return mark.time_s <= self.reached_s

    def between(self, start: Mark, end: Mark) -> float:
        self.asked_early |= end.time_s > self.reached_s
        return super().between(start, end)


def test_a_device_s_line_tells_of_the_window_before(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput_monitor, "clock_of", lambda device: FakeEvents(time))
    model = Timed(time, lambda number: float(number))
    found = fit(model, DataLoader(Samples(), batch_size=8), max_steps=8)
    assert found[3] == {}
    assert found[5]["step_p50_ms"] == pytest.approx(2500)  # of steps 2 and 3
    assert found[7]["step_p50_ms"] == pytest.approx(4500)


def test_a_device_that_is_behind_is_not_waited_for(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeEvents(time)
    clock.reached_s = 0.0
    monkeypatch.setattr(throughput_monitor, "clock_of", lambda device: clock)
    found = fit(Timed(time), DataLoader(Samples(), batch_size=8), max_steps=8)
    assert found[-1] == {}
    assert not clock.asked_early


def test_nothing_synchronises(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the device nor an event, whatever is there."""

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("waited for the device")

    for owner in (torch.cuda, torch.cuda.Event, torch.cuda.Stream, torch.cpu):
        monkeypatch.setattr(owner, "synchronize", refused)
    assert fit(Counting(time), DataLoader(Samples(), batch_size=8))[-1]


def hooks(trainer_profiler: Any) -> set[str]:
    return {"start", "stop"} & set(vars(trainer_profiler))


def test_the_profiler_is_left_as_it_was(time: Time) -> None:
    class Failing(Timed):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 3:
                assert hooks(self.trainer.profiler) == {"start", "stop"}
                raise RuntimeError("boom")
            return super().training_step(batch, batch_idx)

    for model in (Timed(time), Failing(time)):
        monitor = ThroughputMonitor()
        trainer = pl.Trainer(
            max_steps=5, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[monitor],
            limit_val_batches=0,
        )  # fmt: skip
        fails = isinstance(model, Failing)
        with pytest.raises(RuntimeError, match="boom") if fails else nullcontext():
            trainer.fit(model, DataLoader(Samples(), batch_size=8))
        assert monitor._run is None
        assert hooks(trainer.profiler) == set()  # type: ignore[attr-defined]


def test_listeners_that_lie_over_each_other_all_fall_silent() -> None:
    profiler = PassThroughProfiler()
    told: list[str] = []
    one, two = (
        FetchListener(profiler, partial(told.append, f"{name} asks"), partial(told.append, name))
        for name in ("one", "two")
    )
    with profiler.profile("[_TrainingEpochLoop].train_dataloader_next"):
        assert sorted(told) == ["one asks", "two asks"]
    with profiler.profile("[_EvaluationLoop].val_next"):
        assert len(told) == 4
    one.let_go()
    two.let_go()
    two.let_go()
    with profiler.profile("[_TrainingEpochLoop].train_dataloader_next"):
        assert len(told) == 4


def test_an_observer_leaves_the_weights_as_they_would_be(time: Time) -> None:
    def weights(*callbacks: pl.Callback) -> Tensor:
        torch.manual_seed(0)
        model = nn.Linear(4, 1)

        class Plain(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.layer = model

            def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
                return self.layer(batch + torch.rand(4)).square().mean()

            def configure_optimizers(self) -> Any:
                return torch.optim.AdamW(self.parameters())

        pl.Trainer(
            max_steps=6, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[*callbacks],
            log_every_n_steps=1,
        ).fit(Plain(), DataLoader(Samples(), batch_size=8))  # fmt: skip
        return model.weight.detach()

    assert torch.equal(weights(), weights(ThroughputMonitor()))


@pytest.mark.parametrize(
    "options",
    [
        {"every_n_steps": 0}, {"warmup_steps": -1}, {"smoothing_steps": 0},
        {"straggler_windows": 0}, {"peak_flops": 0}, {"straggler_share": 0},
    ],
)  # fmt: skip
def test_bad_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.*expected"):
        ThroughputMonitor(**options)


@pytest.mark.gpu
def test_on_a_gpu_times_are_the_device_s_and_nothing_waits() -> None:
    class Sleeping(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4))

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            torch.cuda._sleep(10_000_000)
            return (batch @ self.weight).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def events(*callbacks: pl.Callback) -> tuple[int, Any]:
        import warnings

        torch.cuda.set_sync_debug_mode("warn")
        trainer = pl.Trainer(
            max_steps=40, accelerator="gpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[*callbacks],
            log_every_n_steps=5, limit_val_batches=0,
        )  # fmt: skip
        try:
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                trainer.fit(Sleeping(), DataLoader(Samples(), batch_size=8))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found = trainer.callback_metrics.get("throughput/step_p50_ms")
        return sum("synchronizing" in str(warning.message) for warning in seen), found

    bare, _ = events()
    watched, step_ms = events(ThroughputMonitor())
    assert watched == bare
    assert step_ms is not None
    assert step_ms > 1


# ------------------------------------------------------------------------------------ stragglers


def test_the_slowest_is_judged_by_the_median_of_the_others() -> None:
    stragglers = Stragglers(share=0.1, patience=2)
    lag, told = stragglers.judge([1.0, 1.5, 1.1, 1.2], step_s=2.0)
    assert (lag.rank, lag.seconds, told) == (1, pytest.approx(0.4), False)
    assert stragglers.judge([1.0, 1.5, 1.1, 1.2], 2.0)[1]
    assert not stragglers.judge([1.0, 1.5, 1.1, 1.2], 2.0)[1]  # told once
    stragglers.judge([1.0, 1.1, 1.1, 1.2], 2.0)  # a good window ends it
    assert not stragglers.judge([1.0, 1.5, 1.1, 1.2], 2.0)[1]
    assert not stragglers.judge([1.9, 1.5, 1.1, 1.2], 2.0)[1]  # another rank begins anew
    assert stragglers.judge([1.9, 1.5, 1.1, 1.2], 2.0)[1]


SCRIPT = """
import json, sys, warnings
import lightning.pytorch as pl, torch, torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader
from lightning_arrcoc.callbacks import ThroughputMonitor, throughput_monitor
from lightning_arrcoc.callbacks.throughput.clocks import HostClock

now = [0.0]
throughput_monitor.clock_of = lambda device: HostClock(lambda: now[0])
gathered, events = [], []

def counting(*args, before=dist.all_gather, **kwargs):
    gathered.append(1)
    return before(*args, **kwargs)

dist.all_gather = counting

class Planted(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        now[0] += 1.5 if self.global_rank == 1 else 1.0
        return self.layer(batch).square().mean()

    def backward(self, loss):
        super().backward(loss)
        now[0] += 0.5 if self.global_rank == 1 else 1.0  # who is early waits here

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

class Listening(pl.Callback):
    def on_event(self, event):
        events.append([event.name, event.fields])

trainer = pl.Trainer(
    max_steps=14, accelerator="cpu", devices=2, strategy="ddp", logger=False, log_every_n_steps=2,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    callbacks=[ThroughputMonitor(), Listening()],
)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    trainer.fit(Planted(), DataLoader(torch.randn(128, 4), batch_size=2))
with open(f"{sys.argv[1]}/{trainer.global_rank}.json", "w") as file:
    json.dump({"metrics": {k: float(v) for k, v in trainer.callback_metrics.items()},
               "gathered": len(gathered), "events": events,
               "told": [str(w.message) for w in seen if "holds the" in str(w.message)]}, file)
"""


def test_two_processes_name_the_one_that_lags(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path)], env={**os.environ},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    zero, one = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert zero["metrics"]["throughput/straggler_rank"] == 1
    assert zero["metrics"]["throughput/straggler_lag_ms"] == pytest.approx(500)
    assert zero["metrics"]["throughput/samples_per_s"] == pytest.approx(2)  # of both
    assert one["metrics"]["throughput/straggler_rank"] == 1
    assert zero["gathered"] == 6  # one a line, the first of which is warm-up
    assert [name for name, _ in zero["events"]] == ["throughput/straggler_found"]
    assert zero["events"][0][1] == {"straggler": 1, "lag_ms": pytest.approx(500), "windows": 3}
    assert one["events"] == []
    (words,) = zero["told"]
    assert "Rank 1 holds the others up" in words
    assert "500 ms longer, 25% of a step" in words
