"""Benchmarks run from any folder and say what they measured; no figure is judged here."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lightning_arrcoc import callbacks, loggers, plugins
from lightning_arrcoc.config import check_overrides

RGB_ONLY = ["model.arr_coc.texture.channels=[red,green,blue]"]
ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "examples" / "benchmarks"


SHORT_FIT = (
    "trainer.max_steps=2", "trainer.val_check_interval=2", "data.val.length=4",
    "data.val_batch_size=4", "data.batch_size=2", "data.num_workers=0",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, run_program: Callable[..., Any]) -> Callable[..., str]:
    def run(script: str, *arguments: str) -> str:
        """What the script prints, started in a folder of its own."""
        done = run_program(BENCHMARKS / script, *arguments, folder=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        return str(done.stdout)

    return run


def test_selectors_are_compared_by_family_and_budget(
    tmp_path: Path, run: Callable[..., str]
) -> None:
    printed = run(
        "compare_selectors.py",
        "--seeds", "1", "--questions", "8", "--batch", "4", "--budgets", "0.25", "0.05",
        "--json", "found.json", *SHORT_FIT,
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    names = {row["selector"] for row in found["results"]}
    assert len(names) == 11
    assert {row["budget"] for row in found["results"]} == {1.0, 0.25, 0.05}
    assert {(*row["canvas"], row["digits"]) for row in found["results"]} == {(384, 384, 8)}
    for row in found["results"]:
        assert 0 <= row["read off"]["mean"] <= 100
        assert row["ms"]["mean"] > 0
    assert found["seeds"] == 1
    assert all(name in printed for name in names)


def test_selectors_are_compared_on_canvases_that_training_never_showed(
    tmp_path: Path, run: Callable[..., str], short_run: Path
) -> None:
    printed = run(
        "compare_selectors.py", "--held-out",
        "--questions", "4", "--batch", "4", "--budgets", "0.1", "--json", "found.json",
        "--checkpoints", str(short_run / "checkpoints" / "last.ckpt"),
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    asked = {(*row["canvas"], row["digits"]) for row in found["results"]}
    assert asked == {(384, 384, 8), (512, 512, 8), (480, 160, 8), (384, 384, 12)}
    assert len(found["results"]) == 4 * 11
    for width, height, digits in asked:
        assert f"{width} x {height} px with {digits} digits: 10% of the tokens" in printed


# ---------------------------------------------------------------------------------- ablations


@pytest.fixture(scope="module")
def ablations() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield import_module("ablations")


@pytest.fixture(scope="module")
def measuring(ablations: ModuleType) -> ModuleType:
    return import_module("measuring")


@pytest.fixture(scope="module")
def short_run(measuring: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of fit on three channels, two steps long."""
    folder: Path = tmp_path_factory.mktemp("runs") / "rgb-only" / "0"
    measuring.train(folder, 0, [*RGB_ONLY, *SHORT_FIT])
    return folder


def test_every_variant_is_a_change_of_the_configuration_alone(ablations: ModuleType) -> None:
    assert list(ablations.VARIANTS) == [
        "whole", "no-query", "fixed-tensions", "no-information", "no-perspectival",
        "no-participatory", "rgb-only", "top-k-only",
    ]  # fmt: skip
    for name, words in ablations.VARIANTS.items():
        assert bool(words) == (name != "whole")
        assert check_overrides("fit", words) or not words


def test_ablations_are_measured_by_family_and_against_the_whole(
    tmp_path: Path, run: Callable[..., str], short_run: Path
) -> None:
    runs = short_run.parents[1]
    before = (short_run / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    printed = run(
        "ablations.py", "--variants", "rgb-only", "--runs", str(runs),
        "--seeds", "1", "--questions", "4", "--batch", "4", "--budgets", "0.25", "0.05",
        "--json", "found.json", *SHORT_FIT,
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {(row["variant"], row["budget"]): row for row in found["results"]}
    assert set(rows) == {
        ("full", 1.0), ("whole", 0.25), ("whole", 0.05), ("rgb-only", 0.25), ("rgb-only", 0.05),
    }  # fmt: skip
    for (variant, budget), row in rows.items():
        for family in ("colour", "place", "comparison", "count", "read off"):
            asked = 3 if family == "read off" else 1
            right = row[family]["mean"] / 100 * asked
            assert right == pytest.approx(round(right))
            if variant != "full":
                gap = row[family]["mean"] - rows["whole", budget][family]["mean"]
                assert row["apart_from_whole"][family]["mean"] == gap
    assert rows["rgb-only", 0.25]["overrides"] == RGB_ONLY
    assert "rgb-only" in printed
    assert "read off - whole" in printed
    assert (short_run / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before, "trained anew"
    assert (runs / "whole" / "0" / "checkpoints" / "last.ckpt").exists()


def test_what_was_measured_of_a_run_is_not_measured_again(
    ablations: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.touch()
    monkeypatch.setattr(ablations, "load", lambda path: path)
    new: list[Any] = []

    def measured(model: Path, samples: list[Any], batch: int, players: list[Any]) -> Any:
        new.append([player[:2] for player in players])
        answers = {"colour": [1.0], "place": [0.0], "comparison": [1.0], "seconds": [0.1]}
        return {player[:2]: defaultdict(list, answers) for player in players}

    monkeypatch.setattr(ablations, "measure", measured)
    some = [("whole", 0.25, None), ("whole", 0.1, None)]
    first = ablations.asked(checkpoint, [1, 2], 1, some[:1])
    assert ablations.asked(checkpoint, [1, 2], 1, some)["whole", 0.25] == first["whole", 0.25]
    assert new == [[("whole", 0.25)], [("whole", 0.1)]]
    ablations.asked(checkpoint, [1, 2, 3], 1, some)
    assert new[2] == [("whole", 0.25), ("whole", 0.1)], "other questions"
    os.utime(checkpoint, (2e9, 2e9))
    ablations.asked(checkpoint, [1, 2], 1, some[:1])
    assert new[3] == [("whole", 0.25)], "trained anew"


def test_a_model_is_loaded_as_it_was_trained(measuring: ModuleType, short_run: Path) -> None:
    model = measuring.load(short_run / "checkpoints" / "last.ckpt")
    assert model.arr_coc.texture.out_channels == 3


def test_a_run_with_other_overrides_is_not_taken(measuring: ModuleType, short_run: Path) -> None:
    with pytest.raises(SystemExit, match="Name another folder"):
        measuring.train(short_run, 0, [*RGB_ONLY, *SHORT_FIT, "trainer.max_steps=3"])
    with pytest.raises(SystemExit, match="Name another folder"):
        measuring.train(short_run, 1, [*RGB_ONLY, *SHORT_FIT])


def test_figures_are_spread_over_seeds_and_paired_with_the_whole(
    ablations: ModuleType, measuring: ModuleType
) -> None:
    def seed(colour: list[float], place: list[float]) -> dict[str, float]:
        answers = {"colour": colour, "place": place, "seconds": [0.1, 0.3, 0.2]}
        found: dict[str, float] = measuring.figures(defaultdict(list, answers))
        return found

    whole = [seed([1, 1], [1, 1]), seed([1, 0], [1, 1])]
    part = [seed([1, 0], [1, 0]), seed([0, 0], [1, 1])]
    assert part[0] == {"colour": 50, "place": 50, "read off": 50, "ms": 200}
    spread = measuring.spread(part)
    assert spread["colour"] == {"mean": 25, "half_range": 25}
    assert spread["read off"] == {"mean": 50, "half_range": 0}
    found = {("whole", 0.1): whole, ("part", 0.1): part}
    apart = ablations.apart_from_whole(found, ("part", 0.1))
    assert apart["colour"] == {"mean": -50, "half_range": 0}
    assert apart["read off"] == {"mean": -37.5, "half_range": 12.5}
    assert "ms" not in apart


def test_textures_are_timed_group_by_group(tmp_path: Path, run: Callable[..., str]) -> None:
    printed = run("textures.py", "--size", "64", "--repeats", "2", "--json", "found.json")
    assert (tmp_path / "found.json").exists()
    assert "core" in printed
    assert "full" in printed


def test_precision_is_measured_channel_by_channel_and_module_by_module(
    tmp_path: Path, run: Callable[..., str], short_run: Path
) -> None:
    printed = run(
        "precision.py", "--size", "64", "--canvases", "1", "--json", "found.json",
        "--checkpoint", str(short_run / "checkpoints" / "last.ckpt"),
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["textures"]) == ["bf16", "autocast", "bf16-mixed", "bf16-true", "kept"]
    assert set(found["textures"]["bf16-mixed"].values()) == {0.0}
    assert all(len(channels) == 40 for channels in found["textures"].values())
    assert all(isinstance(value, float) for value in found["textures"]["kept"].values())
    assert "arr_coc.texture" in found["modules"]
    assert f"keep_fp32={found['keep_fp32']}" in printed


def test_speed_of_stock_and_both_modes_is_told_beside_the_limit(
    tmp_path: Path, run: Callable[..., str]
) -> None:
    printed = run(
        "speed.py", "--backbone", "tiny", "--size", "128", "--budgets", "2", "5",
        "--batch", "2", "--repeats", "2", "--device", "cpu", "--threads", "1",
        "--json", "found.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {(row["job"], row["variant"], row["budget"]): row for row in found["rows"]}
    modes = [("stock", None)]
    modes += [(mode, k) for mode in ("after_vision", "before_vision") for k in (2, 5)]
    assert list(rows) == [(job, *mode) for job in ("prefill", "step") for mode in modes]
    for job in ("prefill", "step"):
        limits = [rows[(job, *mode)]["limit_of_stock"] for mode in modes]
        stock, after_2, after_5, before_2, before_5 = limits
        assert stock == 1 > after_5 > after_2 > before_5 > before_2 > 0
    for (job, mode, k), row in rows.items():
        peer = rows[(job, "stock", None)]
        assert row["min_s"] / peer["max_s"] <= row["of_stock"] <= row["max_s"] / peer["min_s"]
        assert row["of_stock"] == 1 or mode != "stock"
        assert row["of_limit"] == row["of_stock"] / row["limit_of_stock"]
        assert row["tokens"] == (k or 16) + 40
        assert row["patches"] == 4 * (k if mode == "before_vision" else 16)
        assert row["turns"] == 2
        assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
        assert 0 < row["choosing_share"] + row["tower_share"] < 1
        assert f"{row['of_stock']:.3f}" in printed
    assert "target" not in printed  # they are those of 2B dimensions


def test_allocation_is_timed_with_and_without_levels(
    tmp_path: Path, run: Callable[..., str]
) -> None:
    printed = run("allocation.py", "--cells", "9", "--repeats", "2", "--json", "found.json")
    rows = json.loads((tmp_path / "found.json").read_text())["results"]
    assert len(rows) == 3 * 4
    assert all(len(row["ms"]) == 2 and min(row["ms"]) > 0 for row in rows)
    assert "quadtree, look-alikes" in printed


def test_a_teacher_is_timed_with_and_without_memory(
    tmp_path: Path, run: Callable[..., str]
) -> None:
    printed = run(
        "teacher.py", "--canvases", "1", "--turns", "2", "--repeats", "1",
        "--json", "found.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())["median_ms"]
    assert all(ms > 0 and name in printed for name, ms in found.items())


def test_the_cache_is_measured_beside_files_memory_and_measuring(
    tmp_path: Path, run: Callable[..., str]
) -> None:
    printed = run(
        "cache.py", "--size", "64", "--images", "4", "--workers", "0", "1",
        "--rounds", "1", "--channels", "core", "--json", "found.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["rows"]) == [
        "measured again", "torch.save, a file an image", "pickle, a file an image", "the cache",
        "copied in memory",
    ]  # fmt: skip
    for name, row in found["rows"].items():
        assert row["ms"] > 0
        assert list(row["samples_a_second"]) == ["0", "1"]
        assert (row["bytes_an_image"] is None) == (name == "measured again")
    assert found["rows"]["copied in memory"]["bytes_an_image"] == 13 * 2 * 2 * 2
    assert "reading back takes" in printed


# --------------------------------------------------------------------------------- checkpoints


def test_saving_is_timed_beside_stock_lightnings(tmp_path: Path, run: Callable[..., str]) -> None:
    printed = run("checkpoint.py", "--mib", "2", "--repeats", "1", "--json", "found.json")
    found = json.loads((tmp_path / "found.json").read_text())["results"]["2"]
    assert set(found) == {"stock", "ours", "ours async"}
    for row in found.values():
        assert {key: len(runs) for key, runs in row.items()} == dict.fromkeys(
            ("time", "blocked", "memory", "load"), 1
        )
    assert "ours, of stock's: time" in printed


def test_swapping_is_timed_beside_reloading(tmp_path: Path, run: Callable[..., str]) -> None:
    printed = run(
        "compare.py", "--checkpoints", "2", "--rounds", "1", "--json", "found.json"
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())["results"]["tiny"]
    assert list(found) == ["reload", "reload, cleaned", "swap, read anew", "swap"]
    for way, row in found.items():
        assert {key: len(runs) for key, runs in row.items()} == dict.fromkeys(
            ("seconds", "peak_mib", "before_mib", "faster"), 1
        )
        assert row["seconds"][0] > 0
        assert way in printed
    assert found["reload"]["faster"] == [1.0]


# ----------------------------------------------------------------------------------- callbacks


def test_callbacks_are_timed_beside_lightnings_and_the_usual_loop(
    tmp_path: Path, run: Callable[..., str]
) -> None:
    printed = run(
        "callbacks.py", "--tensors", "3", "--step-ms", "1", "--steps", "1",
        "--rounds", "1", "--json", "found.json",
    )  # fmt: skip
    rows = json.loads((tmp_path / "found.json").read_text())["results"]["3"]
    assert next(iter(rows)) == "bare Trainer"
    assert rows["bare Trainer"]["ratio"]["median"] == 1
    assert {"GradientMonitor, log", "GradientMonitor, skip", "isnan and item by hand"} <= set(rows)
    for name, row in rows.items():
        assert row["step_ms"] > 0
        assert name in printed


# ------------------------------------------------------------------------------------- imports


def test_importing_each_drop_in_is_timed_by_itself(run: Callable[..., str]) -> None:
    printed = run("imports.py", "--repeats", "1")
    for module in (callbacks, plugins, loggers):
        for name in module.__all__:
            assert f"{module.__name__}.{name} " in printed
