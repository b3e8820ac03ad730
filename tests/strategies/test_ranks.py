"""Two processes on a CPU learn what one learns from twice the batch, however weights lie."""

from __future__ import annotations

import json
import runpy
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_arrcoc import ArrCocQwen3VL

SCRIPT = Path(__file__).parent / "ranks.py"
KINDS: dict[str, dict[str, Any]] = {
    "pictures": {},
    "with words": {"words": True},
    "adapters with words": {"hard": True, "words": True},
}
RUNS: dict[str, dict[str, Any]] = {
    "ddp pictures": {},
    "fsdp2 pictures": {"strategy": "fsdp2"},
    "fsdp2 pictures recomputed": {"strategy": "fsdp2", "recompute": True},
    "ddp with words": {"words": True},
    "fsdp2 with words": {"strategy": "fsdp2", "words": True},
    "ddp adapters with words": {"hard": True, "words": True},
    "fsdp2 adapters with words": {"strategy": "fsdp2", "hard": True, "words": True},
    "fsdp adapters with words": {"strategy": "fsdp", "hard": True, "words": True},
}
RESUMED = ("ddp with words", "fsdp2 adapters with words", "fsdp adapters with words")
Found = dict[str, list[dict[str, Any]]]

pytestmark = pytest.mark.filterwarnings("ignore:The `srun` command is available")
ranks = SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(run_program: Callable[..., Any], backbone_folder: Path, folder: Path) -> Found:
    """What two processes came to, in every way and kind: first process, second process."""
    pytest.importorskip("peft")
    again = {f"{name} resumed": {**RUNS[name], "resume": True} for name in RESUMED}
    wanted = RUNS | again
    words = str(folder), str(backbone_folder), json.dumps(wanted)
    ended = run_program(SCRIPT, *words, ranks=2, folder=folder)
    assert ended.returncode == 0, ended.stderr[-3000:]
    both = [json.loads(printed.splitlines()[-1]) for printed in ended.printed]
    return {name: [one[name] for one in both] for name in wanted}


@pytest.fixture(scope="module")
def one(backbone_folder: Path, folder: Path) -> Callable[[str], dict[str, Any]]:
    """What a single process comes to with the batches of both."""
    known: dict[str, dict[str, Any]] = {}

    def run(kind: str) -> dict[str, Any]:
        if kind not in known:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                how = ranks.How(**KINDS[kind])
                known[kind] = ranks.run(folder, str(backbone_folder), how, 1)
        return known[kind]

    return run


def kind_of(name: str) -> str:
    return next(kind for kind in reversed(KINDS) if kind in name)


@pytest.mark.parametrize("name", RUNS)
def test_the_losses_are_those_of_one_process_with_twice_the_batch(
    name: str, two: Found, one: Callable[[str], dict[str, Any]]
) -> None:
    first, second = two[name]
    assert len(first["losses"]) == ranks.STEPS
    assert (first["losses"], first["weights"]) == (second["losses"], second["weights"])
    expected = one(kind_of(name))
    assert first["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    assert first["norm"] == pytest.approx(expected["norm"], rel=1e-6)


def test_sharding_changes_nothing_bit_for_bit(two: Found) -> None:
    plain, sharded = two["ddp pictures"][0], two["fsdp2 pictures"][0]
    assert sharded["parts"] > 0 == plain["parts"]
    assert (sharded["losses"], sharded["weights"]) == (plain["losses"], plain["weights"])


def test_recomputed_activations_change_nothing(two: Found) -> None:
    again = two["fsdp2 pictures recomputed"][0]
    assert again["weights"] == two["fsdp2 pictures"][0]["weights"]


def test_a_process_without_a_picture_was_among_them(two: Found) -> None:
    shown = [process["shown"] for process in two["ddp with words"]]
    assert any(mine != other for mine, other in zip(*shown, strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_each_validation_sample_counts_once(
    name: str, two: Found, one: Callable[[str], dict[str, Any]]
) -> None:
    """Three, so that one of the processes repeats one; the second shows no picture."""
    assert sorted(process["measured"] for process in two[name]) == [1, 2]
    assert two[name][0]["kept"] == pytest.approx(one(kind_of(name))["kept"])


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_ends_the_same(name: str, two: Found) -> None:
    for whole, resumed in zip(two[name], two[f"{name} resumed"], strict=True):
        assert resumed["losses"] == whole["losses"][-len(resumed["losses"]) :]
        assert 0 < len(resumed["losses"]) < ranks.STEPS
        assert resumed["weights"] == whole["weights"]


def test_checkpoints_of_all_ways_are_alike(folder: Path, two: Found) -> None:
    plain, *sharded = (
        torch.load(folder / f"2-{way}-True-True-False.ckpt", weights_only=True)
        for way in ("ddp", "fsdp2", "fsdp")
    )
    for other in sharded:
        torch.testing.assert_close(other["state_dict"], plain["state_dict"], rtol=1e-4, atol=1e-5)
        assert other["backbone"] == plain["backbone"]


@pytest.mark.parametrize("name", ["ddp pictures", "fsdp2 pictures"])
def test_a_step_moves_what_the_arithmetic_says(
    name: str, two: Found, backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples" / "benchmarks"))
    devices = import_module("devices")
    sizes = devices.sizes_of(ArrCocQwen3VL.from_pretrained(str(backbone_folder)))
    expected = devices.moved_bytes(sizes, 2, "fsdp2" in name, bytes_each=4)
    assert [process["moved"] for process in two[name]] == [expected, expected]
