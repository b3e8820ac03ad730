"""What is no sound checkpoint of this backbone is refused with its reason, and without a path."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.compare import CheckpointComparator, CompareError, reading
from lightning_arrcoc.compare.blueprint import blueprint_of
from lightning_arrcoc.compare.errors import (
    MissingCheckpointError,
    OtherBackboneError,
    SwapError,
    UnsoundCheckpointError,
)
from lightning_arrcoc.plugins.checkpoint_file import write_checkpoint
from lightning_arrcoc.plugins.manifest import STAMPS
from lightning_arrcoc.relevance.textures import CORE
from lightning_arrcoc.weights import trained_weights

Save = Callable[..., Path]
Content = Callable[..., dict[str, Any]]
Train = Callable[..., ArrCocQwen3VL]


@pytest.fixture
def alone(loaded: ArrCocQwen3VL) -> CheckpointComparator:
    """Knows nothing yet."""
    return CheckpointComparator(loaded, max_new_tokens=2)


def refusal(comparator: CheckpointComparator, path: Path, name: str = "one") -> CompareError:
    comparator.register(name, path)
    previous = comparator._model.arr_coc
    with pytest.raises(CompareError) as caught, comparator.use(name):
        pass
    assert str(path.parent) not in str(caught.value), "a page may show it"
    assert name in str(caught.value)
    assert comparator._model.arr_coc is previous
    assert comparator.cached == ([], 0)
    return caught.value


def test_only_small_weights_are_kept(alone: CheckpointComparator, save: Save) -> None:
    alone.register("one", save())
    with alone.use("one") as model:
        small = sum(v.numel() * 4 for v in model.arr_coc.state_dict().values())
    assert alone.cached == (["one"], small)
    (weights,) = alone._store._kept.values()
    storages = {value.untyped_storage().data_ptr() for value in weights.tensors.values()}
    assert len(storages) == len(weights.tensors), "a view would keep a whole storage"
    assert sum(v.untyped_storage().nbytes() for v in weights.tensors.values()) == small


def test_a_checkpoint_of_another_backbone_is_refused(
    alone: CheckpointComparator, save: Save, train: Train, backbone_folder: Path
) -> None:
    error = refusal(alone, save(model=train(folder=str(backbone_folder))))
    assert isinstance(error, OtherBackboneError)
    assert "another backbone" in str(error)
    assert "weights_sha256" in str(error) or "text_" in str(error)


def test_a_trained_backbone_is_no_contestant(
    alone: CheckpointComparator, loaded: ArrCocQwen3VL, tmp_path: Path
) -> None:
    state = trained_weights(loaded, "backbone")
    write_checkpoint({"state_dict": state}, tmp_path / "one.ckpt")
    assert "holds no weights of ARR-COC" in str(refusal(alone, tmp_path / "one.ckpt"))


def test_one_that_says_no_backbone_is_refused(alone: CheckpointComparator, save: Save) -> None:
    error = refusal(alone, save(backbone=None))
    assert isinstance(error, OtherBackboneError)
    assert "does not say which" in str(error)


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": 3}, {"state_dict": {"a": 1}}])
def test_content_of_any_other_form_is_refused(
    alone: CheckpointComparator, tmp_path: Path, content: Any
) -> None:
    if not isinstance(content, dict):
        content = {"state_dict": content}
    write_checkpoint(content, tmp_path / "one.ckpt")
    assert isinstance(refusal(alone, tmp_path / "one.ckpt"), OtherBackboneError)


def test_one_without_a_manifest_is_refused(
    alone: CheckpointComparator, content: Content, train: Train, tmp_path: Path
) -> None:
    TorchCheckpointIO().save_checkpoint(content(train()), tmp_path / "one.ckpt")
    error = refusal(alone, tmp_path / "one.ckpt")
    assert isinstance(error, UnsoundCheckpointError)
    assert "AtomicCheckpoint saves with one" in str(error)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.999])
def test_a_changed_byte_is_found_out(alone: CheckpointComparator, save: Save, place: float) -> None:
    path = save()
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    assert isinstance(refusal(alone, path), UnsoundCheckpointError)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x05\x06" + b"\0" * 18])
def test_what_is_no_checkpoint_is_refused(
    alone: CheckpointComparator, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "one.ckpt").write_bytes(content)
    assert isinstance(refusal(alone, tmp_path / "one.ckpt"), UnsoundCheckpointError)


class Planted:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("planted",)


def test_objects_are_not_loaded(
    alone: CheckpointComparator, content: Content, train: Train, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as without:
        without.setattr("lightning_arrcoc.plugins.checkpoint_file.refuse_objects", lambda _: None)
        write_checkpoint(content(train(), evil=Planted()), tmp_path / "one.ckpt")
    error = refusal(alone, tmp_path / "one.ckpt")
    assert isinstance(error, UnsoundCheckpointError)
    assert "objects" in str(error)
    assert not (tmp_path / "planted").exists()


def test_a_file_that_changes_while_it_is_read_is_refused(
    alone: CheckpointComparator, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, load = save(), reading.load_open

    def slow(descriptor: int, *rest: Any) -> Any:
        os.utime(path, ns=(1, 1))
        return load(descriptor, *rest)

    monkeypatch.setattr(reading, "load_open", slow)
    assert "changed while it was read" in str(refusal(alone, path))


# ------------------------------------------------------------------------- while it is registered


def test_one_that_was_deleted_has_an_error_of_its_own(
    alone: CheckpointComparator, save: Save
) -> None:
    path = save()
    alone.register("one", path)
    with alone.use("one"):
        path.unlink()  # what is in use goes on
        assert alone.cached[0] == ["one"]
    with pytest.raises(MissingCheckpointError, match="'one' is gone"), alone.use("one"):
        pass
    assert alone.cached == ([], 0), "its weights would be served still"
    with pytest.raises(MissingCheckpointError, match="'one' is gone"):
        alone.describe("one")


def test_one_that_was_replaced_is_read_anew(alone: CheckpointComparator, save: Save) -> None:
    alone.register("one", save(seed=1))
    with alone.use("one") as model:
        before = model.arr_coc.null_query.clone()
    save(seed=2)
    with alone.use("one") as model:
        assert not torch.equal(model.arr_coc.null_query, before)
    path = save(seed=1)
    with alone.use("one") as model:
        assert torch.equal(model.arr_coc.null_query, before)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnsoundCheckpointError, match="'one' is damaged"), alone.use("one"):
        pass


def test_a_link_that_leaves_its_folder_later_is_refused(
    loaded: ArrCocQwen3VL, save: Save, tmp_path: Path
) -> None:
    folder = tmp_path / "registered"
    folder.mkdir()
    outside = save()
    (folder / "a.ckpt").write_bytes(outside.read_bytes())
    comparator = CheckpointComparator(loaded)
    comparator.register_folder(folder)
    (folder / "a.ckpt").unlink()
    (folder / "a.ckpt").symlink_to(outside)
    with pytest.raises(MissingCheckpointError, match="out of the folder"), comparator.use("a"):
        pass


# ------------------------------------------------------------------------------- architecture


def test_the_architecture_is_told_by_stamps_and_weights(
    comparator: CheckpointComparator,
) -> None:
    core, forty, fixed, adapted = (
        comparator.describe(name) for name in ("core", "forty", "fixed", "adapted")
    )
    assert core.manifest.step == 7
    assert core.manifest.metrics == {"val/kept": 0.25}
    assert core.blueprint is not None
    assert core.blueprint.channels == tuple(channel.name for channel in CORE)
    assert core.blueprint == adapted.blueprint
    assert forty.blueprint is not None
    assert len(forty.blueprint.channels) == 40
    assert fixed.blueprint is not None
    assert fixed.blueprint.scorers == ("information", "participatory")
    assert astuple(fixed.blueprint)[2:] == (False, True, False, 0.5)
    assert core.lora is None
    assert adapted.lora is not None
    assert (adapted.lora.rank, adapted.lora.alpha) == (2, 6)


def test_without_stamps_the_usual_is_taken(content: Content, train: Train) -> None:
    told = content(train())
    assert blueprint_of({**told, STAMPS: None}) == blueprint_of(told)
    narrow = {"arr_coc.knowing.info_scorer.residual.0.weight": torch.zeros(256, 9)}
    with pytest.raises(ValueError, match="does not tell its texture channels"):
        blueprint_of({"state_dict": narrow})


@pytest.mark.parametrize(
    ("own", "part"),
    [
        ({"texture": {"channels": ["os.system"]}}, "os.system"),
        ({"texture": {"channels": [1, 2]}}, "channels"),
        ({"may_differ": {"temperature": -1.0}}, "temperature"),
        ({"may_differ": {"temperature": "hot"}}, "temperature"),
    ],
)
def test_metadata_chooses_among_our_own_parts_alone(
    alone: CheckpointComparator, save: Save, own: Any, part: str
) -> None:
    error = refusal(alone, save(**{STAMPS: {"architecture": {"own": own}}}))
    assert isinstance(error, SwapError)
    assert part in str(error)


@pytest.mark.parametrize(
    "settings",
    [
        {"rank": 10**9, "alpha": 6, "targets": ["q_proj"]},
        {"rank": 2, "alpha": 6, "targets": "q_proj"},
        {"rank": 2, "targets": ["q_proj"]},
        {"rank": 2, "alpha": 6, "targets": ["no_such_layer"]},
        {"rank": 2, "alpha": 6, "targets": ["q_proj"]},
        "rank 2",
    ],
)
def test_settings_of_adapters_that_are_not_those_of_the_weights_are_refused(
    alone: CheckpointComparator, checkpoints: Path, tmp_path: Path, settings: Any
) -> None:
    told = torch.load(checkpoints / "adapted.ckpt", weights_only=True)
    write_checkpoint(told | {"lora": settings}, tmp_path / "one.ckpt")
    assert isinstance(refusal(alone, tmp_path / "one.ckpt"), SwapError)
    assert not hasattr(alone._model.backbone, "peft_config")
    write_checkpoint({k: v for k, v in told.items() if k != "lora"}, tmp_path / "two.ckpt")
    assert "unknown here: backbone." in str(refusal_but_read(alone, tmp_path / "two.ckpt"))


def refusal_but_read(comparator: CheckpointComparator, path: Path) -> CompareError:
    """Of what only the swap itself finds out: it was read by then."""
    comparator.register("two", path)
    with pytest.raises(SwapError) as caught, comparator.use("two"):
        pass
    return caught.value
