"""What low precision does to each submodule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from lightning_arrcoc.plugins import probe_precision
from lightning_arrcoc.plugins.precision_report import difference


class Cancelling(nn.Module):
    """Variance as a difference of two large numbers: fp32 has digits for it, bf16 has not."""

    def forward(self, x: Tensor) -> Tensor:
        shifted = x + 50
        return (shifted * shifted).mean(-1, keepdim=True) - shifted.mean(-1, keepdim=True) ** 2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(16, 16)
        self.variance = Cancelling()
        self.last = nn.Linear(1, 4)

    def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        return {"logits": self.last(self.variance(self.first(x)) * scale)}


X = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))


def test_the_module_that_loses_is_named_worst_and_recommended_alone() -> None:
    report = probe_precision(Net(), X)
    assert report.modules[0].module == "variance"
    assert report.keep_fp32 == ["*.variance"]
    rows = {row.module: row for row in report.modules}
    assert set(rows) == {"", "first", "variance", "last"}
    assert rows["variance"].lowered.relative > 0.1 > 0.01 > rows["first"].lowered.relative
    assert rows["variance"].kept < 0.01, "as an island it does well"
    assert rows[""].lowered.relative < 0.01, "is not charged with what it calls"
    assert report.whole.relative > 0.01
    relatives = [row.lowered.relative for row in report.modules]
    assert relatives == sorted(relatives, reverse=True)


def test_differences_are_those_of_the_module_by_itself() -> None:
    net = Net()
    (row,) = [row for row in probe_precision(net, X).modules if row.module == "first"]
    exact = net.first(X).detach()
    lower = net.first.to(torch.bfloat16)(X.to(torch.bfloat16)).detach()
    apart = (exact - lower.float()).abs()
    assert row.lowered.largest == pytest.approx(float(apart.max()))
    assert row.lowered.mean == pytest.approx(float(apart.mean()))
    assert row.lowered.relative == pytest.approx(float(apart.norm() / exact.norm()), rel=1e-4)


def test_overflow_in_fp16_is_infinitely_wrong() -> None:
    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            squares: Tensor = (300 * x) ** 2
            return squares.mean(-1).sqrt()

    report = probe_precision(nn.Sequential(Squares()), X, dtype=torch.float16)
    assert report.modules[0].lowered.relative == math.inf
    assert report.keep_fp32 == ["*.0"]


def test_a_module_that_does_not_run_in_16_bit_is_told_why_and_kept() -> None:
    class Inverse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.inv(x[:16] + 20 * torch.eye(16, dtype=x.dtype))

    report = probe_precision(nn.Sequential(Inverse()), X)
    assert report.modules[0].note
    assert report.keep_fp32 == ["*.0"]
    assert report.modules[0].note in str(report)


def test_the_tolerance_decides() -> None:
    assert probe_precision(Net(), X, tolerance=1e6).keep_fp32 == []
    assert probe_precision(Net(), X, tolerance=1e-6).keep_fp32 == ["Net"]


def test_the_module_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    probe_precision(net, X)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(part.training for part in net.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    assert all(p.grad is None for p in net.parameters())
    assert torch.get_default_dtype() is torch.float32


def test_hooks_go_also_when_the_module_raises() -> None:
    with pytest.raises(RuntimeError):
        probe_precision(Net(), X[:, :3])


def test_named_inputs_and_outputs_of_any_structure_are_taken() -> None:
    class Model(nn.Module):
        def forward(self, *, x: Tensor, mask: Tensor) -> BaseModelOutput:
            return BaseModelOutput(last_hidden_state=x * mask, hidden_states=(x, x.exp()))

    report = probe_precision(Model(), x=X, mask=torch.ones(16, dtype=torch.bool))
    assert 0 < report.whole.relative < 0.01


def test_a_module_called_twice_counts_at_its_worst() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.variance = Cancelling()

        def forward(self, x: Tensor) -> Tensor:
            return self.variance(1000 * x) + self.variance(x)

    report = probe_precision(Twice(), X)
    (row,) = [row for row in report.modules if row.module == "variance"]
    assert row.lowered.relative > 0.1


def test_a_16_bit_module_is_compared_with_its_own_weights_in_fp32() -> None:
    report = probe_precision(Net().to(torch.bfloat16), X.to(torch.bfloat16))
    assert report.keep_fp32 == ["*.variance"]


def test_a_module_that_keeps_its_weights_is_given_what_fits_them() -> None:
    class Guarded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 2)

        def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
            return self

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.linear(x.float())
            return output

    report = probe_precision(nn.Sequential(nn.Linear(16, 16), Guarded()), X)
    assert report.keep_fp32 == []
    assert not any(row.note for row in report.modules)


@pytest.mark.parametrize("bad", [torch.float32, torch.int8])
def test_another_dtype_is_refused(bad: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"expected one of torch.bfloat16, torch.float16"):
        probe_precision(Net(), X, dtype=bad)


def test_a_tolerance_that_all_or_nothing_passes_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a positive"):
        probe_precision(Net(), X, tolerance=0.0)


class Argmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(-1)


def test_a_module_that_returns_no_floats_is_refused() -> None:
    with pytest.raises(ValueError, match="returned no floats"):
        probe_precision(Argmax(), X)


def test_equal_infinities_are_no_difference() -> None:
    masked = torch.tensor([0.0, -torch.inf])
    assert difference(masked, masked.to(torch.bfloat16)) == (0, 0, 0)
    assert difference(torch.zeros(1), torch.tensor([torch.nan])).relative == math.inf
    assert difference(torch.zeros(1), torch.ones(1)).relative == math.inf
    assert difference(torch.zeros(0), torch.zeros(0)) == (0, 0, 0)
