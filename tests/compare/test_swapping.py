"""A swap brings all weights or none, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.compare import CheckpointComparator
from lightning_arrcoc.compare.errors import SwapError
from lightning_arrcoc.compare.rooms import Room
from lightning_arrcoc.relevance import Knowing, RelevanceRealizer, build_realizer
from lightning_arrcoc.relevance.knowing import InformationScorer

Save = Callable[..., Path]
Content = Callable[..., dict[str, Any]]


def state_of(model: ArrCocQwen3VL) -> dict[str, Any]:
    """Everything a swap might change, in copies and identities."""
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "memory": {name: value.data_ptr() for name, value in model.state_dict().items()},
        "modules": [(n, id(m), type(m), m.training) for n, m in model.named_modules()],
        "learns": [(name, value.requires_grad) for name, value in model.named_parameters()],
        "backbone": sorted(vars(model.backbone)),
        "settings": (model.select, model.budget),
        "random": torch.get_rng_state(),
    }


def assert_untouched(model: ArrCocQwen3VL, before: dict[str, Any]) -> None:
    now = state_of(model)
    for kind in ("memory", "modules", "learns", "backbone", "settings"):
        assert now[kind] == before[kind], kind
    assert torch.equal(now["random"], before["random"])
    for name, value in before["values"].items():
        assert torch.equal(value, now["values"][name]), name


@pytest.mark.parametrize("name", ["core", "forty", "fixed", "adapted"])
def test_afterwards_the_model_is_what_it_was_bit_for_bit(
    comparator: CheckpointComparator, loaded: ArrCocQwen3VL, name: str
) -> None:
    before = state_of(loaded)
    with comparator.use(name) as model:
        assert model is loaded
        assert state_of(model)["modules"] != before["modules"]
        model.select, model.budget = "after_vision", 3
        first = next(model.arr_coc.parameters()).clone()
        with torch.no_grad():
            for weight in model.arr_coc.parameters():
                weight.add_(1)  # what is done to a copy
        kept = model.arr_coc
    assert_untouched(loaded, before)
    assert all(weight.is_meta for weight in kept.parameters()), "still takes memory"
    with pytest.raises(KeyError), comparator.use(name):
        raise KeyError
    assert_untouched(loaded, before)
    with comparator.use(name) as model:
        assert torch.equal(next(model.arr_coc.parameters()), first)


def test_a_resident_network_of_the_same_architecture_is_not_written_into(
    save: Save, loaded: ArrCocQwen3VL
) -> None:
    comparator = CheckpointComparator(loaded)
    comparator.register("one", save(seed=5))
    resident, before = loaded.arr_coc, loaded.arr_coc.null_query.clone()
    with comparator.use("one") as model:
        assert model.arr_coc is not resident
        assert torch.equal(resident.null_query, before)


def changed(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    first, *rest = state
    if how == "none":
        return {f"arr_coc.other.{name}": value for name, value in state.items()}
    if how == "missing":
        return {name: state[name] for name in rest}
    if how == "unknown":
        return state | {"arr_coc.surplus": torch.zeros(1)}
    return state | {first: torch.zeros(3)}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("none", r"none fit \(missing: arr_coc\.balancer.* and \d+ more; unknown here: arr_coc\.o"),
        ("missing", r"26 fit \(missing: arr_coc\.null_query\)"),
        ("unknown", r"27 fit \(unknown here: arr_coc\.surplus\)"),
        ("shape", r"26 fit \(of another shape: arr_coc\.null_query \(3,\) instead of \(96,\)\)"),
    ],
)
def test_names_that_do_not_fit_are_an_error_that_names_them(
    save: Save, train: Any, content: Content, loaded: ArrCocQwen3VL, how: str, words: str
) -> None:
    told = content(train())
    state = changed(told["state_dict"], how)
    comparator = CheckpointComparator(loaded)
    comparator.register("one", save(**{**told, "state_dict": state}), arr_coc=build_realizer)
    before = state_of(loaded)
    with pytest.raises(SwapError, match=words), comparator.use("one"):
        pass
    assert_untouched(loaded, before)
    assert comparator.cached == ([], 0)


@pytest.mark.parametrize("fails_at", [0, 1])
def test_a_swap_that_fails_in_the_middle_leaves_what_was_there(
    comparator: CheckpointComparator, loaded: ArrCocQwen3VL, fails_at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with comparator.use("adapted"):
        pass
    before, fill, filled = state_of(loaded), Room.fill, []

    def out_of_memory(self: Room, *arguments: Any) -> None:
        fill(self, *arguments)
        filled.append(self)
        if len(filled) > fails_at:
            raise torch.OutOfMemoryError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(Room, "fill", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError), comparator.use("adapted"):
            pass
    assert len(filled) == fails_at + 1
    assert_untouched(loaded, before)
    with comparator.use("adapted") as model:
        assert not next(model.arr_coc.parameters()).is_meta


def test_adapters_are_in_the_backbone_inside_and_nowhere_outside(
    comparator: CheckpointComparator, loaded: ArrCocQwen3VL
) -> None:
    own = {id(value) for value in loaded.backbone.parameters()}
    for _ in range(2):
        with comparator.use("adapted") as model:
            parameters = dict(model.backbone.named_parameters())
            adapters = {name for name in parameters if "lora_" in name}
            assert len(adapters) == 32
            assert {id(v) for n, v in parameters.items() if n not in adapters} == own, "a copy"
        assert not any("lora_" in name for name, _ in loaded.backbone.named_parameters())


class Wide(InformationScorer):
    def __init__(self, channels: Any) -> None:
        super().__init__(channels, width=8)


def wide(query_dim: int) -> RelevanceRealizer:
    made = build_realizer(query_dim, knowing=partial(Knowing, scorers=["information"]))
    made.knowing.info_scorer = Wide(made.texture.channels)
    return made


class Forgetful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1), persistent=False)


def forgetful(query_dim: int) -> RelevanceRealizer:
    made = build_realizer(query_dim)
    made.balancer = Forgetful()
    return made


def test_a_network_of_ones_own_is_built_as_one_says(
    save: Save, train: Any, loaded: ArrCocQwen3VL
) -> None:
    comparator = CheckpointComparator(loaded)
    path = save(model=train(wide))
    comparator.register("told", path, arr_coc=wide)
    with comparator.use("told") as model:
        assert isinstance(model.arr_coc.knowing.info_scorer, Wide)
    comparator.register("untold", path)
    with pytest.raises(SwapError, match="arr_coc="), comparator.use("untold"):
        pass
    comparator.register("forgetful", path, arr_coc=forgetful)
    with pytest.raises(SwapError, match=r"balancer\.scale"), comparator.use("forgetful"):
        pass
