"""Which modules are islands, and what an island is."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchmetrics import MeanMetric

from lightning_arrcoc.plugins.island_patterns import find_islands
from lightning_arrcoc.plugins.islands import (
    Island,
    check_apart,
    has_border,
    hold,
    lower,
    release,
)

BF16 = torch.bfloat16


class Sensitive(nn.Module):
    """Notes what it computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("third", torch.full((4,), 1 / 3))
        self.seen: list[Any] = []

    def forward(self, x: Tensor, extra: dict[str, Tensor] | None = None) -> Tensor:
        made = torch.zeros(1)
        self.seen.append((x.dtype, made.dtype, torch.is_autocast_enabled("cpu")))
        output: Tensor = self.linear(x) + self.third
        return output if extra is None else output + extra["more"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.balancer = Sensitive()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.balancer(self.backbone(x))
        for layer in self.layers:
            x = layer(x)
        return x


def islands(*patterns: str, net: nn.Module | None = None) -> list[str]:
    return list(find_islands(net or Net(), patterns).islands)


def make(net: nn.Module, *patterns: str, true: bool = True) -> nn.Module:
    found = find_islands(net, patterns)
    check_apart(found)
    if true:
        lower(net, found, BF16)
    for island in found.islands.values():
        hold(island, BF16 if true else None, "cpu")
    return net


# -------------------------------------------------------------------------------------- patterns


def test_a_pattern_is_a_glob_on_names_or_classes() -> None:
    assert islands("balancer") == ["balancer"]
    assert islands("*.balancer") == ["balancer"], "right below the root too"
    assert islands("*.linear") == ["balancer.linear"]
    assert islands("Sensitive") == ["balancer"]
    assert islands("*Norm*") == ["backbone.1", "layers.1"]
    assert islands("_BatchNorm") == ["backbone.1"], "a class it derives from"
    assert islands("Batch*", "layers.0") == ["backbone.1", "layers.0"]


def test_a_module_within_an_island_is_no_island_of_its_own() -> None:
    assert islands("*") == ["backbone", "balancer", "layers.0", "layers.1"]
    assert islands("balancer", "*.linear") == ["balancer"]


def test_what_is_never_called_stands_for_its_children() -> None:
    assert islands("layers") == ["layers.0", "layers.1"]


def test_no_pattern_means_no_island() -> None:
    assert islands() == []


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("*.balancr", "balancer"), ("*.linaer", "balancer.linear"), ("LayrNorm", "LayerNorm")],
)
def test_a_pattern_that_matches_nothing_names_the_nearest(pattern: str, near: str) -> None:
    with pytest.raises(MisconfigurationException, match="matches no module") as caught:
        islands("backbone", pattern)
    assert repr(pattern) in str(caught.value)
    assert f"Nearest: {near!r}" in str(caught.value)


def test_names_leave_out_what_was_put_around() -> None:
    net = Net()
    net.balancer = torch.compile(net.balancer, backend="eager")  # type: ignore[assignment]
    found = find_islands(net, ["*.balancer"]).islands
    assert {name: type(module) for name, module in found.items()} == {"balancer": Sensitive}


def test_a_weight_shared_with_the_rest_is_refused() -> None:
    net = Net()
    net.layers[0].weight = net.balancer.linear.weight
    with pytest.raises(MisconfigurationException, match=r"'layers.0.weight' is shared with 'bal"):
        make(net, "*.balancer")
    make(net, "*.balancer", "layers.0")


def test_a_module_shared_with_the_rest_is_refused() -> None:
    net = Net()
    net.again = net.balancer.linear
    with pytest.raises(MisconfigurationException, match="shared with 'balancer'"):
        make(net, "*.balancer")


# ------------------------------------------------------------------------------------ conversion


def test_all_but_islands_is_lowered_and_those_keep_every_bit() -> None:
    before = Net().state_dict()
    net = make(Net(), "*.balancer")
    for name, value in net.state_dict().items():
        if name.startswith("balancer"):
            assert torch.equal(value, before[name])
        elif value.is_floating_point():
            assert value.dtype is BF16, name
    assert list(net.state_dict()) == list(before), "names changed"


def test_parameters_stay_the_same_objects_with_their_gradients() -> None:
    net = Net()
    net(torch.randn(3, 4)).sum().backward()
    before = dict(net.named_parameters())
    make(net, "*.balancer")
    for name, parameter in net.named_parameters():
        assert parameter is before[name]
        assert parameter.grad is not None
        assert parameter.grad.dtype is parameter.dtype


def test_running_sums_of_metrics_are_not_lowered() -> None:
    net = Net()
    net.metric = MeanMetric()
    net.metric.update(torch.tensor(300.0))
    make(net, "*.balancer")
    for _ in range(3):
        net.metric.update(torch.tensor(301.0))
    assert net.metric.compute() == 300.75
    net.metric.reset()
    assert net.metric.mean_value.dtype is torch.float32


def test_a_module_that_guards_its_own_dtype_is_heard() -> None:
    class Guarded(nn.Linear):
        def _apply(self, fn: Any, recurse: bool = True) -> Any:
            return self

    net = Net()
    net.guarded = Guarded(2, 2)
    make(net, "*.balancer")
    assert net.guarded.weight.dtype is torch.float32


@pytest.mark.parametrize("true", [False, True])
def test_an_island_computes_in_fp32_amid_the_rest(true: bool) -> None:
    net = make(Net(), "*.balancer", true=true)
    x = torch.randn(3, 4)
    with torch.autocast("cpu", dtype=BF16, enabled=not true):
        output = net(x.to(BF16) if true else x)
    assert net.balancer.seen == [(torch.float32, torch.float32, False)]
    assert output.dtype is BF16 or not true


def test_new_tensors_are_fp32_in_an_island_while_the_default_is_lower() -> None:
    net = make(Net(), "*.balancer")
    torch.set_default_dtype(BF16)
    try:
        net(torch.randn(3, 4))
    finally:
        torch.set_default_dtype(torch.float32)
    assert net.balancer.seen == [(torch.float32, torch.float32, False)]


def test_named_and_nested_inputs_are_raised_too() -> None:
    net = make(Net(), "*.balancer")
    half = torch.ones(2, 4, dtype=BF16)
    assert net.balancer(x=half, extra={"more": half}).dtype is BF16
    assert net.balancer.seen[0][0] is torch.float32


def test_an_island_called_by_an_island_has_no_border() -> None:
    net = Net()
    shared = net.layers[1]
    net.balancer.norm = shared
    found = find_islands(net, ["balancer", "layers.1"])
    assert list(found.islands) == ["balancer", "layers.1"]
    make(net, "balancer", "layers.1")
    seen = []
    net.balancer.linear.register_forward_hook(
        lambda module, inputs, output: seen.append(shared(output).dtype)
    )
    net(torch.randn(3, 4, dtype=BF16))
    assert seen == [torch.float32]
    assert shared(torch.ones(1, 4, dtype=BF16)).dtype is BF16


def test_a_16_bit_island_among_16_bit_modules_gets_a_border_in_the_mixed_modes_too() -> None:
    net = make(Net().to(BF16), "*.balancer", true=False)
    assert net.balancer.linear.weight.dtype is torch.float32
    assert has_border(net.balancer)
    assert net(torch.randn(3, 4, dtype=BF16)).dtype is BF16
    hold(net.balancer, None, "cpu")  # a second run
    assert has_border(net.balancer)


def test_autocast_and_default_come_back_after_an_exception() -> None:
    net = make(Net(), "*.balancer", true=False)
    with torch.autocast("cpu", dtype=BF16):
        with pytest.raises(RuntimeError):
            net.balancer(torch.ones(1, 5))
        assert torch.is_autocast_enabled("cpu")
        net(torch.randn(3, 4))


def test_a_released_module_is_as_it_was() -> None:
    net = Net()
    before = dict(vars(net.balancer))
    make(net, "*.balancer", true=False)
    make(net, "*.balancer", true=False)
    assert isinstance(net.balancer.forward, Island)
    assert not isinstance(net.balancer.forward.inside, Island), "an island around an island"
    release(net.balancer)
    assert vars(net.balancer).keys() == before.keys()


def test_a_forward_that_was_set_on_the_module_is_kept_and_given_back() -> None:
    net = Net()

    def own(x: Tensor) -> Tensor:
        return x * 2

    net.balancer.forward = own  # type: ignore[method-assign]
    make(net, "*.balancer")
    half = torch.ones(1, 4, dtype=BF16)
    assert net.balancer(half).tolist() == [[2, 2, 2, 2]]
    release(net.balancer)
    assert net.balancer.forward is own


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_has_islands_of_its_own(copied: Any) -> None:
    net = make(Net(), "*.balancer").eval()
    twin = copied(net)
    assert twin.balancer.forward.inside.__self__ is twin.balancer
    with torch.no_grad():
        twin.balancer.linear.weight.zero_()
    x = torch.randn(3, 4, dtype=BF16)
    assert not torch.equal(net(x), twin(x))


def test_a_backward_pass_that_recomputes_an_island_does_so_in_fp32() -> None:
    net = make(Net(), "*.balancer", true=False)
    x = torch.randn(3, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=BF16):
        loss = checkpoint(net.balancer, x, use_reentrant=False).sum()
    loss.backward()
    assert net.balancer.seen == [(torch.float32, torch.float32, False)] * 2


# -------------------------------------------------------------------------------- torch.compile


# From importing inductor.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    "backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("true", [False, True])
@pytest.mark.parametrize("order", ["before", "before, and called", "after", "in place"])
def test_compiled_before_or_after_conversion_the_result_is_the_same(
    order: str, true: bool, backend: str
) -> None:
    torch.compiler.reset()
    net, plain = Net().eval(), make(Net(), "*.balancer", true=true).eval()
    x = torch.randn(3, 4)
    compiled: Any = net
    if order.startswith("before"):
        compiled = torch.compile(net, backend=backend)
    if order == "in place":
        net.compile(backend=backend)
    if order == "before, and called":
        compiled(x)
    make(compiled, "*.balancer", true=true)
    if order == "after":
        compiled = torch.compile(net, backend=backend, fullgraph=True)
    given = x.to(BF16) if true else x
    with torch.autocast("cpu", dtype=BF16, enabled=not true), torch.no_grad():
        found, expected = compiled(given), plain(given)
    assert found.dtype is expected.dtype
    if backend == "inductor":  # fuses casts: what is rounded in between is not rounded any more
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    else:
        assert torch.equal(found, expected)
