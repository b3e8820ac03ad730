"""Runs in 16 bit with parts in fp32."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import FSDPPrecision, Precision
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lightning_arrcoc.plugins import SelectivePrecision, full_precision
from lightning_arrcoc.plugins.fp32 import running
from lightning_arrcoc.plugins.island_patterns import find_islands
from lightning_arrcoc.plugins.islands import Island

MODES = ["bf16-mixed", "bf16-true", "16-mixed"]
BF16 = torch.bfloat16


class Energy(nn.Module):
    """Divides by the root of a sum of squares: beyond 65504, fp16's largest, for usual features."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("floor", torch.tensor(1e-8))
        self.seen: set[Any] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add((x.dtype, self.scale.dtype, self.floor.dtype))
        x = 300 * x
        return self.scale * x / ((x * x).sum(-1, keepdim=True) + self.floor).sqrt()


class Classifier(pl.LightningModule):
    """A frozen backbone, an island and a head."""

    def __init__(self, fused: bool = True, in_fp32: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(8, 32), nn.GELU()).requires_grad_(False)
        self.energy = Energy()
        self.head = nn.Linear(32, 2)
        self.accuracy = MeanMetric()
        self.fused, self.in_fp32 = fused, in_fp32
        self.losses: list[Tensor] = []
        self.norms: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.energy(self.backbone(x)))
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        if self.in_fp32:
            with full_precision():
                loss = F.cross_entropy(logits, y)
        else:
            loss = (logits * logits).mean()
        self.losses.append(loss.detach())
        self.accuracy.update((logits.argmax(-1) == y).float())
        self.log("accuracy", self.accuracy, on_epoch=True, on_step=False)
        return loss

    def on_before_zero_grad(self, optimizer: Any) -> None:
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        if grads:
            self.norms.append(float(torch.cat([g.float().flatten() for g in grads]).norm()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=0.05, fused=self.fused)


class Validated(Classifier):
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self(batch[0])


def data() -> DataLoader[Any]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(128, 8, generator=random)
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=16)


def trainer(plugin: Precision | None, **options: Any) -> pl.Trainer:
    usual: dict[str, Any] = {
        "max_epochs": 3, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    return pl.Trainer(plugins=[plugin] if plugin else None, **(usual | options))


# ------------------------------------------------------------------------------------- the modes


@pytest.mark.parametrize("mode", MODES)
def test_an_island_computes_in_fp32_and_the_rest_does_not(mode: str) -> None:
    module, plugin = Classifier(), SelectivePrecision(mode, keep_fp32=["*.energy", "*.head"])
    seen: set[Any] = set()
    module.backbone.register_forward_hook(lambda m, i, output: seen.add(output.dtype))
    trainer(plugin, max_epochs=1).fit(module, data())
    assert seen == {torch.float16 if mode == "16-mixed" else BF16}
    assert module.energy.seen == {(torch.float32, torch.float32, torch.float32)}
    assert {loss.dtype for loss in module.losses} == {torch.float32}


@pytest.mark.parametrize("mode", MODES)
def test_training_reaches_what_fp32_reaches(mode: str) -> None:
    """Same data, order and start, so that nothing but precision is between them."""
    reached = []
    for plugin in (None, SelectivePrecision(mode, keep_fp32=["*.energy", "*.head"])):
        run = trainer(plugin, max_epochs=6, gradient_clip_val=1.0)
        run.fit(module := Classifier(), data())
        reached.append(float(run.callback_metrics["accuracy"]))
        assert module.losses[0] > 2 * module.losses[-1]
    assert reached[0] > 0.9
    assert reached[1] == pytest.approx(reached[0], abs=0.02)


def test_naive_fp16_fails_where_an_island_does_not() -> None:
    """Features of an infinite norm are zero: nothing is learned, and nobody is told."""
    reached = {}
    for patterns in ([], ["*.energy"]):
        run = trainer(SelectivePrecision("16-mixed", keep_fp32=patterns), max_epochs=6)
        run.fit(Classifier(), data())
        reached[len(patterns)] = float(run.callback_metrics["accuracy"])
    assert reached[0] < 0.7
    assert reached[1] > 0.9


def test_a_frozen_backbone_in_bf16_with_trainable_fp32_parts() -> None:
    module, plugin = Classifier(), SelectivePrecision("bf16-true", keep_fp32=["energy", "head"])
    backbone = {n: v.to(BF16) for n, v in module.backbone.state_dict().items()}
    run = trainer(plugin, max_epochs=2)
    run.fit(module, data())
    (optimizer,) = run.optimizers
    moments = [v for state in optimizer.state.values() for v in state.values()]
    assert {value.dtype for value in moments} == {torch.float32}
    assert {p.dtype for p in module.parameters() if p.requires_grad} == {torch.float32}
    for name, value in module.backbone.state_dict().items():
        assert torch.equal(value, backbone[name])
    assert module.accuracy.mean_value.dtype is torch.float32


def test_a_loss_in_16_bit_is_told_once_with_what_to_do() -> None:
    plugin = SelectivePrecision("bf16-true", keep_fp32=["*.energy"])
    with pytest.warns(UserWarning, match="The loss is torch.bfloat16.*full_precision") as found:
        trainer(plugin, max_epochs=1).fit(Classifier(in_fp32=False), data())
    assert len([word for word in found if "The loss is" in str(word.message)]) == 1


# ----------------------------------------------------------------------------------- the scaler


def test_gradients_are_clipped_with_a_fused_optimizer_and_a_scaler() -> None:
    """Lightning refuses the first, and fused optimizers unscale by themselves."""
    for mode in ("16-mixed", "bf16-mixed"):
        module = Classifier(fused=True)
        plugin = SelectivePrecision(mode, keep_fp32=["*.energy"])
        trainer(plugin, max_epochs=1, gradient_clip_val=0.01).fit(module, data())
        assert max(module.norms) == pytest.approx(0.01, rel=0.01)


def test_fused_and_unfused_optimizers_come_to_the_same_under_a_scaler() -> None:
    weights = []
    for fused in (True, False):
        module = Classifier(fused=fused)
        plugin = SelectivePrecision("16-mixed", keep_fp32=["*.energy"])
        trainer(plugin, max_epochs=1, gradient_clip_val=0.1).fit(module, data())
        weights.append(module.head.weight)
    torch.testing.assert_close(*weights)


def test_a_step_whose_gradients_overflow_is_skipped_and_the_scale_halved() -> None:
    class Overflowing(Classifier):
        def on_after_backward(self) -> None:
            if self.global_step == 0 and len(self.losses) == 1:
                assert self.head.weight.grad is not None
                self.head.weight.grad[0, 0] = torch.inf

    module = Overflowing()
    before = module.head.weight.clone()
    plugin = SelectivePrecision("16-mixed", keep_fp32=["*.energy"])
    trainer(plugin, limit_train_batches=1, max_epochs=1).fit(module, data())
    assert torch.equal(module.head.weight, before)
    assert plugin.scaler.get_scale() == 2.0**15


def test_the_scale_survives_a_checkpoint(tmp_path: Path) -> None:
    def fresh() -> SelectivePrecision:
        return SelectivePrecision("16-mixed", keep_fp32=["*.energy"])

    first = SelectivePrecision(
        "16-mixed", keep_fp32=["*.energy"], scaler=torch.amp.GradScaler("cpu", init_scale=8.0)
    )
    run = trainer(first, max_epochs=1)
    run.fit(Classifier(), data())
    run.save_checkpoint(tmp_path / "saved.ckpt", weights_only=False)
    second = fresh()
    trainer(second, max_epochs=2, limit_train_batches=1).fit(
        Classifier(), data(), ckpt_path=tmp_path / "saved.ckpt", weights_only=True
    )
    assert second.scaler.get_scale() == 8.0


def test_manual_optimization_works_with_a_scaler() -> None:
    class Manual(Classifier):
        automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:  # type: ignore[override]
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    module = Manual()
    plugin = SelectivePrecision("16-mixed", keep_fp32=["*.energy"])
    trainer(plugin).fit(module, data())
    assert module.losses[0] > 2 * module.losses[-1]


# ----------------------------------------------------------------------------------- life cycle


@pytest.mark.parametrize("mode", MODES)
def test_it_fits_twice_and_validates_in_between(mode: str) -> None:
    module, plugin = Validated(), SelectivePrecision(mode, keep_fp32=["*.energy"])
    run = trainer(plugin, max_epochs=1)
    run.fit(module, data(), data())
    run.validate(module, data(), verbose=False)
    trainer(SelectivePrecision(mode, keep_fp32=["*.energy"]), max_epochs=1).fit(
        module, data(), data()
    )
    assert module.energy.seen == {(torch.float32, torch.float32, torch.float32)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind_also_after_an_exception(mode: str, fails: bool) -> None:
    class Failing(Classifier):
        def on_train_batch_end(self, *_: Any) -> None:
            if fails:
                raise RuntimeError("on purpose")

    module, plugin = Failing(), SelectivePrecision(mode, keep_fp32=["*.energy"])
    run = trainer(plugin, max_epochs=1)
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            run.fit(module, data())
    else:
        run.fit(module, data())
    assert not running.plugins
    assert running.depth == 0
    assert torch.get_default_dtype() is torch.float32
    stays = mode == "bf16-true"  # the border is what fits the island to the rest
    assert isinstance(vars(module.energy).get("forward"), Island) == stays
    assert module(torch.zeros(1, 8, dtype=BF16 if stays else torch.float32)).shape == (1, 2)


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_has_the_names_of_the_plain_module_and_resumes(
    mode: str, tmp_path: Path
) -> None:
    plain, module = Classifier(), Classifier()
    run = trainer(SelectivePrecision(mode, keep_fp32=["*.energy"]), max_epochs=1)
    run.fit(module, data())
    run.save_checkpoint(tmp_path / "saved.ckpt", weights_only=False)
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    assert list(saved["state_dict"]) == list(plain.state_dict())
    again = Classifier()
    trainer(SelectivePrecision(mode, keep_fp32=["*.energy"]), max_epochs=1).fit(
        again, data(), ckpt_path=tmp_path / "saved.ckpt", weights_only=True
    )
    for name, value in module.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_module_made_by_the_trainer_is_made_in_fp32() -> None:
    run = trainer(SelectivePrecision("bf16-true", keep_fp32=["*.energy"]))
    with run.init_module():
        module = Classifier()
    assert {p.dtype for p in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_run_compiled_before_or_after_conversion_ends_alike(order: str) -> None:
    class Compiled(Classifier):
        def on_fit_start(self) -> None:
            if order == "after":
                self.energy.compile(backend="aot_eager", fullgraph=True)

    torch.compiler.reset()
    compiled, plain = Compiled(), Classifier()
    if order == "before":
        compiled.energy.compile(backend="aot_eager", fullgraph=True)
    for module in (compiled, plain):
        trainer(SelectivePrecision("bf16-mixed", keep_fp32=["*.energy"])).fit(module, data())
    for name, value in compiled.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name])


# From torch's own tracing of what follows a break of the graph.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_lightning_module_is_taken() -> None:
    class Silent(Classifier):
        """Lightning's own `log` cannot be traced by torch 2.13."""

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            with full_precision():
                return F.cross_entropy(self(batch[0]), batch[1])

    torch.compiler.reset()
    module = Silent()
    plugin = SelectivePrecision("bf16-mixed", keep_fp32=["*.energy"])
    trainer(plugin, max_epochs=1, limit_train_batches=2).fit(
        torch.compile(module, backend="eager"), data()
    )
    assert module.energy.seen == {(torch.float32, torch.float32, torch.float32)}


# ------------------------------------------------------------------------------------- the table


def test_one_table_is_shown_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    module, plugin = Validated(), SelectivePrecision("bf16-true", keep_fp32=["*.energy"])
    run = trainer(plugin, max_epochs=1)
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        run.fit(module, data(), data())
        run.validate(module, data(), verbose=False)
    (shown,) = [r.getMessage() for r in caplog.records if "SelectivePrecision" in r.getMessage()]
    rows = {row.module: row for row in plugin.dtype_report()}
    assert rows["backbone"][1:5] == ("bfloat16", "bfloat16", 8 * 32 + 32, 0)
    assert rows["energy"][1:5] == ("float32", "float32", 1, 1)
    assert rows["head"][1:5] == ("bfloat16", "bfloat16", 2 * 32 + 2, 2 * 32 + 2)
    assert all(name in shown for name in rows)
    assert "66 trainable parameters are no fp32" in shown


def test_a_report_before_the_start_says_that_it_is_too_early() -> None:
    with pytest.raises(RuntimeError, match="a Trainer sets the plugin up"):
        SelectivePrecision().dtype_report()


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("mode", ["32-true", "16-true", "bf16", None])
def test_another_precision_is_refused(mode: Any) -> None:
    with pytest.raises(ValueError, match="expected one of bf16-mixed, bf16-true, 16-mixed"):
        SelectivePrecision(mode)


@pytest.mark.parametrize("patterns", ["*.energy", [nn.LayerNorm], [1]])
def test_patterns_are_a_list_of_words(patterns: Any) -> None:
    with pytest.raises(TypeError, match="expected a list"):
        SelectivePrecision(keep_fp32=patterns)


def test_a_scaler_belongs_to_16_mixed() -> None:
    with pytest.raises(ValueError, match="needs no scaler"):
        SelectivePrecision("bf16-mixed", scaler=torch.amp.GradScaler("cpu"))


def test_a_pattern_that_matches_nothing_stops_the_run_at_its_start() -> None:
    with pytest.raises(MisconfigurationException, match=r"'\*.enrgy'.*Nearest: 'energy'"):
        trainer(SelectivePrecision(keep_fp32=["*.enrgy"])).fit(Classifier(), data())
    assert not running.plugins


def test_a_weight_that_an_island_shares_stops_a_run_that_would_lower_it() -> None:
    class Tied(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.backbone.scale = self.energy.scale

    with pytest.raises(MisconfigurationException, match=r"'backbone\.scale' is shared"):
        trainer(SelectivePrecision("bf16-true", keep_fp32=["*.energy"])).fit(Tied(), data())
    trainer(SelectivePrecision(keep_fp32=["*.energy"]), max_epochs=1).fit(Tied(), data())


@pytest.mark.parametrize(
    ("strategy", "mode", "message"),
    [
        (DeepSpeedStrategy, "bf16-mixed", r"DeepSpeed casts.*Trainer\(precision='bf16-mixed'\)"),
        (ModelParallelStrategy, "16-mixed", r"Set SelectivePrecision\('bf16-mixed'\)"),
    ],
)
def test_a_strategy_that_cannot_hold_islands_is_refused_with_what_to_set(
    strategy: type, mode: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made without its own constructor, which wants DeepSpeed installed."""
    module = Classifier()
    run = trainer(SelectivePrecision(mode))
    monkeypatch.setattr(run.strategy, "__class__", strategy, raising=False)
    module.trainer = run
    with pytest.raises(MisconfigurationException, match=message):
        SelectivePrecision(mode, keep_fp32=["*.energy"]).convert_module(module)


def test_lbfgs_is_refused_under_a_scaler() -> None:
    class Quasi(Classifier):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.LBFGS(self.head.parameters())

    with pytest.raises(MisconfigurationException, match="LBFGS"):
        trainer(SelectivePrecision("16-mixed")).fit(Quasi(), data())


# ------------------------------------------------------- what Lightning and torch must go on having


def test_private_names_it_leans_on_are_still_there() -> None:
    """Where this fails, the file that the comment beside the name is in needs a look."""
    assert callable(Precision._after_closure)
    assert callable(nn.Module._apply)
    assert issubclass(FSDPPrecision, Precision)
    compiled = torch.compile(nn.Linear(1, 1), backend="eager")
    assert set(compiled._modules) == {"_orig_mod"}


def test_a_whole_scaler_step_goes_through_lightnings_hooks() -> None:
    """`_after_closure` is what calls callbacks and clips."""
    seen: list[str] = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, run: Any, module: Any, optimizer: Any) -> None:
            seen.append("before")
            norm = module.head.weight.grad.norm()
            assert norm < 10, "gradients are still scaled"

    plugin = SelectivePrecision("16-mixed", keep_fp32=["*.energy"])
    trainer(plugin, callbacks=[Watch()], max_epochs=1, limit_train_batches=2).fit(
        Classifier(), data()
    )
    assert seen == ["before", "before"]


# -------------------------------------------------------------------------------------- ARR-COC


@pytest.mark.parametrize("mode", MODES)
def test_arr_coc_learns_the_same_in_16_bit(
    mode: str, backbone_folder: Path, short_fit: Callable[..., Any]
) -> None:
    plain, lower = short_fit(None), short_fit(SelectivePrecision(mode, keep_fp32=["*.arr_coc"]))
    assert {p.dtype for p in lower.model.arr_coc.parameters()} == {torch.float32}
    backbone = {p.dtype for p in lower.model.backbone.parameters()}
    assert backbone == {BF16 if mode == "bf16-true" else torch.float32}
    expected = plain.trainer.callback_metrics["train/loss"]
    found = lower.trainer.callback_metrics["train/loss"]
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0)


@pytest.fixture
def short_fit(backbone_folder: Path) -> Callable[..., Any]:
    """A few steps of ARR-COC on the untrained tiny backbone."""
    from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL, VqaDataModule
    from lightning_arrcoc.data.digits import DigitQuestions

    pytest.importorskip("sklearn")

    def fit(plugin: Precision | None) -> Any:
        pl.seed_everything(0, verbose=False)
        model = ArrCocQwen3VL.from_pretrained(str(backbone_folder), dtype="float32")
        module = ArrCocModule(model)
        questions = DigitQuestions("train", 16, canvas_px=(96, 96), digits=2)
        source = VqaDataModule(train=questions, val=questions, batch_size=4, num_workers=0)
        run = trainer(plugin, max_steps=4, limit_val_batches=0, gradient_clip_val=1.0)
        run.fit(module, source)
        return module

    return fit


def test_islands_of_arr_coc_are_found_by_the_names_of_the_readme(backbone_folder: Path) -> None:
    from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL

    module = ArrCocModule(ArrCocQwen3VL.from_pretrained(str(backbone_folder)))
    found = find_islands(module, ["*.balancer", "*.texture"]).islands
    assert list(found) == ["model.arr_coc.texture", "model.arr_coc.balancer"]


def exact_match(folder: Path, *words: str) -> float:
    """Of the last validation of a whole run of fit."""
    command = ["-m", "lightning_arrcoc", "fit", f"hydra.run.dir={folder}", "logger=csv"]
    subprocess.run(
        [sys.executable, *command, "data.test=null", "picture_samples=0", *words], check=True
    )
    with (folder / "csv" / "metrics.csv").open() as lines:
        found = [row["val/exact_match"] for row in csv.DictReader(lines)]
    return float([value for value in found if value][-1])


@pytest.mark.slow
def test_arr_coc_answers_as_well_after_training_in_bf16(tmp_path: Path) -> None:
    expected = exact_match(tmp_path / "fp32")
    for mode in ("bf16-mixed", "bf16-true"):
        words = "trainer=selective", f"trainer.plugins.precision={mode}"
        assert exact_match(tmp_path / mode, *words) == pytest.approx(expected, abs=0.03)
