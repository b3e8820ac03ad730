"""Norms equal those computed one by one, however gradients are taken together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_arrcoc.callbacks.gradients.norms import (
    SMALL,
    GradientNorms,
    group_of,
    named_parameters,
    norms_of,
)


def with_gradients(
    *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> list[nn.Parameter]:
    torch.manual_seed(0)
    made = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape).to(dtype)
    return made


def test_torch_still_has_what_it_keeps_to_itself() -> None:
    """`_foreach_norm` and `_flatten_dense_tensors` are torch's own; this fails when they move."""
    values = [torch.tensor([3.0, 4.0]), torch.tensor([[5.0], [12.0]])]
    assert [float(norm) for norm in norms_of(values)] == [5.0, 13.0]
    small = {"a": values[0], "b": values[1]}
    parameters = {name: nn.Parameter(torch.zeros_like(value)) for name, value in small.items()}
    for name, parameter in parameters.items():
        parameter.grad = small[name]
    measured = GradientNorms(parameters, 0).measure()
    assert measured is not None
    assert len(measured.each) == 1  # laid side by side
    assert float(measured.total) == pytest.approx((25 + 169) ** 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_total_is_what_clipping_measures(dtype: torch.dtype) -> None:
    parameters = with_gradients((3, 4), (SMALL + 1,), (7,), (40, 50), dtype=dtype)
    measured = GradientNorms({f"p{i}": p for i, p in enumerate(parameters)}).measure()
    assert measured is not None
    gradients = [p.grad.float() for p in parameters if p.grad is not None]
    expected = torch.nn.utils.get_total_norm(gradients)
    assert float(measured.total) == pytest.approx(float(expected), rel=1e-6)


def test_a_norm_of_half_numbers_does_not_overflow() -> None:
    (parameter,) = with_gradients((4,), dtype=torch.float16)
    parameter.grad = torch.full((4,), 60_000.0, dtype=torch.float16)
    measured = GradientNorms({"a": parameter}).measure()
    assert measured is not None
    assert float(measured.total) == pytest.approx(120_000, rel=1e-3)


def test_groups_are_told_apart_by_depth_and_by_globs() -> None:
    a, b, c = with_gradients((2,), (3,), (2000,))
    named = {"encoder.0.weight": a, "encoder.1.weight": b, "head.weight": c}

    def norms(groups: int | list[str]) -> dict[str, float]:
        measuring = GradientNorms(named, groups)
        measured = measuring.measure()
        assert measured is not None
        return dict(zip(measuring.group_names, measured.groups.tolist(), strict=True))

    one_by_one = {name: float(p.grad.norm()) for name, p in named.items() if p.grad is not None}
    encoder = sum(one_by_one[f"encoder.{i}.weight"] ** 2 for i in (0, 1)) ** 0.5
    assert norms(1) == pytest.approx({"encoder": encoder, "head": one_by_one["head.weight"]})
    assert set(norms(2)) == {"encoder.0", "encoder.1", "head"}
    assert norms(0) == {}
    assert norms(["encoder.0.*", "head.*"]) == pytest.approx(
        {
            "encoder.0.*": one_by_one["encoder.0.weight"],
            "head.*": one_by_one["head.weight"],
            "other": one_by_one["encoder.1.weight"],
        }
    )


def test_a_name_of_one_part_is_its_own_group() -> None:
    assert group_of("weight", 1) == "weight"
    assert group_of("layer.weight", 3) == "layer"


@pytest.mark.parametrize("large", [False, True])
def test_gradients_that_are_not_finite_are_named(large: bool) -> None:
    a, b, c = with_gradients((2,), (SMALL + 1 if large else 3,), (2,))
    assert b.grad is not None
    b.grad[1] = float("nan")
    norms = GradientNorms({"a": a, "b": b, "c": c})
    measured = norms.measure()
    assert measured is not None
    assert not measured.total.isfinite()
    assert norms.nonfinite_names(measured.each) == ["b"]


def test_gradients_may_come_and_go() -> None:
    a, b = with_gradients((2,), (3,))
    norms = GradientNorms({"a": a, "b": b})
    for absent, present in ((a, b), (b, a)):  # as many each time
        kept, absent.grad = absent.grad, None
        measured = norms.measure()
        assert measured is not None
        assert present.grad is not None
        assert float(measured.total) == pytest.approx(float(present.grad.norm()))
        assert measured.groups.count_nonzero() == 1
        absent.grad = kept
    a.grad = b.grad = None
    assert norms.measure() is None


def test_sparse_gradients_count_their_rows_once() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 1, 3])).sum().backward()
    measured = GradientNorms({"table": table.weight}).measure()
    assert measured is not None
    assert float(measured.total) == pytest.approx((4 + 4 + 1 + 1) ** 0.5)


def test_names_are_without_what_wrappers_add() -> None:
    module = nn.Sequential()
    module.add_module("_orig_mod", nn.Linear(2, 2))
    stray = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([*module.parameters(), stray], lr=1.0)
    assert list(named_parameters(module, optimizer)) == ["weight", "bias", "unnamed.2"]


SHARDED = """
    import torch, torch.nn as nn
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    data = torch.randn(2, 4, 6)
    whole = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    whole.load_state_dict(model.state_dict())
    (whole(data[0]).square().mean() / 2 + whole(data[1]).square().mean() / 2).backward()
    expected = {"0": 0.0, "1": 0.0}
    for name, p in whole.named_parameters():
        expected[name[0]] = (expected[name[0]] ** 2 + float(p.grad.norm()) ** 2) ** 0.5
    from lightning_arrcoc.callbacks.gradients.norms import GradientNorms, named_parameters
    from lightning_arrcoc.callbacks.gradients import sharding
    calls = []
    def counting(*args, _before=dist.all_reduce, **kwargs):
        calls.append(1)
        return _before(*args, **kwargs)
    def check(model, copies):
        model(data[rank]).square().mean().backward()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        norms = GradientNorms(named_parameters(model, optimizer), 1, copies)
        dist.all_reduce, before = counting, dist.all_reduce
        found = norms.measure(torch.ones(1, dtype=torch.float64))
        dist.all_reduce = before
        assert norms.group_names == ["0", "1"], norms.names
        by_group = torch.tensor(list(expected.values()), dtype=torch.float64)
        print(torch.allclose(found.groups, by_group),
              abs(float(found.total) - float(by_group.norm())) < 1e-5,
              found.extra.tolist(), len(calls))
        return optimizer
"""


def test_under_fsdp2_one_sum_makes_norms_of_shards(together: Callable[[str], list[str]]) -> None:
    found = together(
        SHARDED
        + """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    mesh = init_device_mesh("cpu", (2,))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = check(model, sharding.copies_of_dtensor)
    from lightning_arrcoc.callbacks.gradients.withholding import way_to_withhold
    print(way_to_withhold(optimizer, None, None, 4))
    """
    )
    assert found == ["True True [2.0] 1\nhost\n"] * 2


def test_under_fsdp1_one_sum_makes_norms_of_shards(together: Callable[[str], list[str]]) -> None:
    found = together(
        SHARDED
        + """
    import warnings
    warnings.simplefilter("ignore")
    from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp
    model = nn.Sequential(*[Fsdp(layer, use_orig_params=True, device_id=torch.device("cpu"))
                            for layer in model])
    model = Fsdp(model, use_orig_params=True, device_id=torch.device("cpu"))
    check(model, sharding.copies_under_fsdp(model))
    """
    )
    assert found == ["True True [2.0] 1\n"] * 2
