"""Islands in several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.distributed.fsdp.wrap import CustomPolicy, ModuleWrapPolicy

from lightning_arrcoc.plugins.island_patterns import find_islands
from lightning_arrcoc.plugins.island_sharding import FSDP1_ISLAND, islands_apart

SCRIPT = """
import sys, torch, lightning.pytorch as pl
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from lightning_arrcoc.plugins import SelectivePrecision, full_precision

kind, mode, ckpt = sys.argv[1:4]
FP32, LOW = torch.float32, torch.bfloat16

class Island(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.register_buffer("third", torch.full((16,), 1 / 3))
        self.seen = set()

    def forward(self, x):
        self.seen.add((x.dtype, self.linear.weight.dtype, self.third.dtype))
        assert torch.equal(self.third, torch.full((16,), 1 / 3)), "rounded"
        return self.linear(x) + self.third

class Back(nn.Sequential):
    seen = set()

    def forward(self, x):
        x = super().forward(x)
        self.seen.add(x.dtype)
        return x

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.back = Back(nn.Linear(8, 16), nn.GELU())
        self.island = Island()
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.island(self.back(x)))

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = Net()
        self.losses = []

    def configure_model(self):
        if kind.startswith("fsdp2"):
            precision, mesh = self.trainer.precision_plugin, self.device_mesh["data_parallel"]
            if kind == "fsdp2":
                precision.shard_islands(self, mesh=mesh)
            fully_shard(self.net, mesh=mesh, mp_policy=precision.fsdp2_policy)

    def training_step(self, batch, batch_idx):
        logits = self.net(batch[0])
        with full_precision():
            loss = F.cross_entropy(logits, batch[1])
        assert loss.dtype is FP32
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.02)

class OnCpu(FSDPStrategy):
    # FSDP1 wants the device itself where there is no accelerator; Lightning hands on its number.
    def _setup_model(self, model):
        return FullyShardedDataParallel(
            model, mixed_precision=self.mixed_precision_config, device_id=torch.device("cpu"),
            sharding_strategy=self.sharding_strategy, **self.kwargs,
        )

strategy = {
    "ddp": lambda: "ddp",
    "fsdp1": lambda: OnCpu(process_group_backend="gloo", auto_wrap_policy={Back}),
    "fsdp2": lambda: ModelParallelStrategy(
        process_group_backend="gloo", save_distributed_checkpoint=False),
    "fsdp2-together": lambda: ModelParallelStrategy(process_group_backend="gloo"),
}[kind]()
module = Module()
x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 16)
trainer = pl.Trainer(
    strategy=strategy, accelerator="cpu", devices=2, max_epochs=10, logger=False,
    plugins=[SelectivePrecision(mode, keep_fp32=["*.island"])], gradient_clip_val=1.0,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(module, loader)
island = next(part for part in module.modules() if isinstance(part, Island))
assert island.seen == {(FP32, FP32, FP32)}, island.seen
assert Back.seen == {LOW}, Back.seen
assert module.losses[-1] < 0.5 * module.losses[0], module.losses
for name, parameter in module.named_parameters():
    lowered = mode == "bf16-true" and "island" not in name
    assert parameter.dtype is (LOW if lowered else FP32), (name, parameter.dtype)
if kind == "fsdp1":  # whose full state_dict ends the process on a CPU, in torch 2.13
    apart = [type(part).__name__ for part in (module.net.island, module.net.back, module.net.head)]
    assert apart == ["FullyShardedDataParallel"] * 2 + ["Linear"], apart
else:
    trainer.save_checkpoint(ckpt, weights_only=False)
"""
NAMES = [
    "net.back.0.weight", "net.back.0.bias", "net.island.third", "net.island.linear.weight",
    "net.island.linear.bias", "net.head.weight", "net.head.bias",
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, run_program: Callable[..., Any]) -> Callable[..., Any]:
    def run(kind: str, mode: str) -> Any:
        (tmp_path / "script.py").write_text(SCRIPT)
        saved = str(tmp_path / "saved.ckpt")
        return run_program(tmp_path / "script.py", kind, mode, saved, ranks=2)

    return run


@pytest.mark.parametrize("mode", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp1", "fsdp2"])
def test_two_processes_train_with_an_island_in_fp32(
    kind: str, mode: str, tmp_path: Path, run: Callable[..., Any]
) -> None:
    done = run(kind, mode)
    assert done.returncode == 0, done.stderr[-3000:]
    if kind != "fsdp1":
        saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)["state_dict"]
        assert sorted(saved) == sorted(NAMES)


def test_an_island_that_fsdp2_shards_with_the_rest_is_refused(run: Callable[..., Any]) -> None:
    done = run("fsdp2-together", "bf16-mixed")
    assert done.returncode != 0
    assert "'net.island' is kept in fp32, but is not sharded apart" in done.stderr
    assert "shard_islands(self, mesh=...)" in done.stderr


# -------------------------------------------------------------------------------- FSDP1's policy


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(x))  # type: ignore[no-any-return]


def large(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    return recurse or nonwrapped_numel >= 20


def wrapped(policy: CustomPolicy, root: nn.Module) -> dict[str, Any]:
    names = {module: name for name, module in root.named_modules()}
    found = policy._run_policy(root, set(), {"mixed_precision": "low"})
    return {names[module]: kwargs["mixed_precision"] for module, kwargs in found.items()}


@pytest.mark.parametrize(
    ("policy", "others"),
    [
        (None, []),
        (ModuleWrapPolicy({Block}), ["0", "1"]),
        (large, ["", "0", "0.linear", "1", "1.linear"]),
    ],
)
def test_islands_are_wrapped_in_fp32_and_the_rest_as_it_was_to_be(
    policy: Any, others: list[str]
) -> None:
    root = nn.Sequential(Block(), Block())
    made = islands_apart(find_islands(root, ["*.norm"]), policy)
    expected = dict.fromkeys(others, "low") | dict.fromkeys(["0.norm", "1.norm"], FSDP1_ISLAND)
    assert wrapped(made, root) == expected


def test_nothing_within_an_island_is_wrapped() -> None:
    root = nn.Sequential(Block(), Block())
    made = islands_apart(find_islands(root, ["0"]), large)
    assert wrapped(made, root) == {"": "low", "0": FSDP1_ISLAND, "1": "low", "1.linear": "low"}


def test_an_island_without_parameters_needs_no_wrapping() -> None:
    root = nn.Sequential(nn.Linear(2, 2), nn.GELU())
    assert wrapped(islands_apart(find_islands(root, ["GELU"]), None), root) == {}


def test_a_policy_that_cannot_be_asked_is_refused() -> None:
    policy = CustomPolicy(lambda module: True)
    with pytest.raises(MisconfigurationException, match="a set of classes"):
        islands_apart(find_islands(nn.Sequential(Block()), ["0"]), policy)
