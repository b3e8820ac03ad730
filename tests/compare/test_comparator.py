"""Checkpoints side by side answer as each would alone, whoever else asks."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL, VqaDataModule
from lightning_arrcoc.callbacks import AtomicCheckpoint
from lightning_arrcoc.compare import CheckpointComparator, Contestant, reallocate
from lightning_arrcoc.compare.errors import (
    LineFullError,
    MissingCheckpointError,
    StoppedError,
    UnknownCheckpointError,
)
from lightning_arrcoc.contest import decode_answers
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.relevance import Allocation
from lightning_arrcoc.relevance.baselines import RandomCells
from lightning_arrcoc.vlm.downsampling import downsample
from lightning_arrcoc.vlm.lora import add_lora

NAMES = ("core", "forty", "fixed", "adapted")
BUILT_IN = ("full", "downsampled", "random")
CELLS = 12

# In a process that has seen no comparator: the way that `predict` loads a checkpoint.
FRESH = """
import sys
from functools import partial
import torch
sys.path.insert(0, {here!r})
from conftest import ARCHITECTURES, QUESTION, canvas
from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL
from lightning_arrcoc.objectives import HardChoice
from lightning_arrcoc.vlm.lora import add_lora
torch.set_num_threads(1)
found = {{}}
for name, arr_coc in ARCHITECTURES.items():
    lora = partial(add_lora, rank=2, alpha=6) if name == "adapted" else None
    model = ArrCocQwen3VL.from_pretrained(
        "tiny", dtype="float32", budget=0.5, arr_coc=arr_coc, lora=lora)
    module = ArrCocModule(model, objective=HardChoice(seed=0))
    saved = torch.load(sys.argv[1] + "/" + name + ".ckpt", weights_only=True)
    module.on_load_checkpoint(saved)
    module.load_state_dict(saved["state_dict"])
    conversation = {{"images": [canvas()], "questions": [QUESTION], "answers": []}}
    batch = model.processor([conversation])
    with torch.no_grad():
        output = model.eval()(**batch)
    found[name] = torch.cat([output.logits.flatten(), output.allocation[0].relevance.flatten()])
torch.save(found, sys.argv[2])
"""


def encoded(model: ArrCocQwen3VL, image: Image.Image, question: str) -> dict[str, Any]:
    assert model.processor is not None
    return model.processor([{"images": [image], "questions": [question], "answers": []}])  # type: ignore[return-value]


@torch.no_grad()
def outputs_of(model: ArrCocQwen3VL, batch: dict[str, Any]) -> torch.Tensor:
    """What it says and what it found relevant."""
    output = model(**batch)
    return torch.cat([output.logits.flatten(), output.allocation[0].relevance.flatten()])


def assert_equal(one: Allocation, other: Allocation) -> None:
    for name, mine, its in zip(Allocation._fields, one, other, strict=True):
        assert torch.equal(mine, its), name


@pytest.fixture
def batch(loaded: ArrCocQwen3VL, image: Image.Image, question: str) -> dict[str, Any]:
    return encoded(loaded, image, question)


def test_outputs_after_a_swap_equal_a_fresh_process_bit_for_bit(
    comparator: CheckpointComparator, checkpoints: Path, tmp_path: Path, batch: dict[str, Any],
    run_program: Callable[..., Any],
) -> None:  # fmt: skip
    program = tmp_path / "fresh.py"
    program.write_text(FRESH.format(here=str(Path(__file__).parent)))
    done = run_program(program, str(checkpoints), str(tmp_path / "found.pt"))
    assert done.returncode == 0, done.stderr
    fresh = torch.load(tmp_path / "found.pt", weights_only=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in (*NAMES, *reversed(NAMES)):
            with comparator.use(name) as model:
                assert torch.equal(outputs_of(model, batch), fresh[name]), name
    finally:
        torch.set_num_threads(threads)
    for one, other in pairwise(NAMES):
        assert not torch.equal(fresh[one], fresh[other]), "could not be told apart"


def test_many_threads_never_mix_weights(
    comparator: CheckpointComparator, batch: dict[str, Any]
) -> None:
    comparator.max_waiting = 8
    alone = {}
    for name in NAMES:
        with comparator.use(name) as model:
            alone[name] = outputs_of(model, batch)
    wrong: list[str] = []
    bytes_seen: list[int] = []

    def ask(seed: int) -> None:
        for name in random.Random(seed).choices(NAMES, k=6):
            try:
                with comparator.use(name) as model:
                    if not torch.equal(outputs_of(model, batch), alone[name]):
                        wrong.append(name)
                    kept, size = comparator.cached
                    bytes_seen.append(size)
                    if len(kept) > 2 or kept[-1] != name:
                        wrong.append(f"{kept}")
            except Exception as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(bytes_seen) == 48


# --------------------------------------------------------------------------------- comparing


def test_each_answers_as_it_would_alone(
    comparator: CheckpointComparator, loaded: ArrCocQwen3VL, image: Image.Image, question: str,
    batch: dict[str, Any],
) -> None:  # fmt: skip
    found = comparator.compare(image, question, [*BUILT_IN, *NAMES], 0.25)
    assert [contestant.name for contestant in found] == [*BUILT_IN, *NAMES]
    full, small, chance, *own = found
    words = {"max_new_tokens": 3, "do_sample": False}
    assert (full.tokens, full.cells) == (CELLS, CELLS)
    stock = loaded.backbone.generate(
        **{k: v for k, v in batch.items() if k not in ("labels", "query_mask")},
        mm_token_type_ids=(batch["input_ids"] == loaded.backbone.config.image_token_id).int(),
        **words,
    )
    assert loaded.processor is not None
    (answer,) = loaded.processor.tokenizer.batch_decode(
        stock[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert full.answer == answer
    shrunk = downsample(batch, 0.25, loaded)
    told = loaded.generate(**shrunk, budget=1.0, **words)
    assert [small.answer] == decode_answers(loaded, told, shrunk)
    assert small.tokens <= 3
    told = loaded.generate(**batch, budget=0.25, selector=RandomCells(), **words)
    assert_equal(chance.allocation, told.allocation[0])
    for contestant, name in zip(own, NAMES, strict=True):
        with comparator.use(name) as model:
            told = model.generate(**batch, budget=0.25, **words)
            assert [contestant.answer] == decode_answers(model, told, batch), name
            assert_equal(contestant.allocation, told.allocation[0])
            assert contestant.channels == model.arr_coc.texture.channels
        assert contestant.tokens == 3
        assert contestant.grid == (3, 4)
        assert contestant.scores.shape == (3, 3, 4)
        assert contestant.textures.shape == (len(contestant.channels), 3, 4)
        assert torch.equal(contestant.relevance, contestant.allocation.relevance)
        assert torch.equal(contestant.tensions, contestant.allocation.tensions)
    assert [len(contestant.channels) for contestant in own] == [13, 40, 13, 13]
    assert own[2].scorers == ("information", "participatory")
    assert {c.answer for c in own} != {full.answer}, "no difference to be seen"


@pytest.fixture(scope="module")
def once(loaded: ArrCocQwen3VL, checkpoints: Path) -> tuple[CheckpointComparator, list[Contestant]]:
    """Everybody's answer on a larger image, at one budget."""
    comparator = CheckpointComparator(loaded, max_loaded=4, max_new_tokens=1)
    comparator.register_folder(checkpoints)
    picture = DigitQuestions("test", 1, canvas_px=(256, 192))[0].images[0]
    return comparator, comparator.compare(picture, "What?", comparator.names, 0.5)


@settings(max_examples=4, deadline=None)
@example(budget=12)
@given(budget=st.one_of(st.integers(1, 48), st.floats(0.01, 1.0)))
def test_a_new_budget_is_spent_as_a_new_comparison_would(
    once: tuple[CheckpointComparator, list[Contestant]], budget: Any
) -> None:
    comparator, found = once
    picture = DigitQuestions("test", 1, canvas_px=(256, 192))[0].images[0]
    for anew in comparator.compare(picture, "What?", comparator.names, budget):
        (before,) = (contestant for contestant in found if contestant.name == anew.name)
        assert_equal(reallocate(before, budget), anew.allocation)
        assert_equal(comparator.reallocate(before, budget), anew.allocation)


@pytest.mark.parametrize("budget", [0, 1.5, 49, "all"])
def test_a_budget_that_cannot_be_is_refused(
    once: tuple[CheckpointComparator, list[Contestant]], image: Image.Image, budget: Any
) -> None:
    comparator, found = once
    for contestant in found:
        with pytest.raises(ValueError, match="budget="):
            reallocate(contestant, budget)
    with pytest.raises(ValueError, match="budget="):
        comparator.compare(image, "What?", ["core"], budget)


def test_answers_come_one_by_one_and_nothing_is_held_between_them(
    comparator: CheckpointComparator, image: Image.Image, question: str
) -> None:
    coming = comparator.compare_each(image, question, ["core", "full"])
    assert next(coming).name == "core"
    with comparator.use("forty"):  # this thread would wait for itself
        pass
    assert next(coming).name == "full"
    assert list(coming) == []


def test_whoever_has_begun_is_not_turned_away(
    comparator: CheckpointComparator, image: Image.Image, question: str
) -> None:
    coming = comparator.compare_each(image, question, ["core", "full"])
    next(coming)
    comparator.max_waiting = 0
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with comparator.use("core"):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(60)
    with pytest.raises(LineFullError):
        comparator.compare(image, question, ["core"])
    threading.Timer(0.05, leave.set).start()
    assert next(coming).name == "full"
    thread.join()


# ----------------------------------------------------------------------------------- stopping


def test_it_stops_between_two_tokens_and_goes_on_with_the_next_question(
    comparator: CheckpointComparator, image: Image.Image, question: str
) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 2

    with pytest.raises(StoppedError, match="between two tokens"):
        comparator.compare(image, question, ["adapted"], stop=stop)
    assert len(asked) == 2
    assert not hasattr(comparator._model.backbone, "peft_config")
    assert comparator.compare(image, question, ["core"])[0].answer is not None


def test_it_stops_while_waiting(
    comparator: CheckpointComparator, image: Image.Image, question: str
) -> None:
    stopped: list[BaseException] = []

    def ask() -> None:
        try:
            comparator.compare(image, question, ["core"], stop=lambda: True)
        except StoppedError as error:
            stopped.append(error)

    with comparator.use("core"):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(60)
    assert "while waiting" in str(stopped[0])
    assert comparator.waiting == 0


# --------------------------------------------------------------------------------- registering


@pytest.mark.parametrize("name", ["nobody", "../core", "/etc/passwd", "core.ckpt", "", None, 3])
def test_what_is_not_registered_is_not_found_whatever_it_is_called(
    comparator: CheckpointComparator, image: Image.Image, question: str, name: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("lightning_arrcoc.compare.comparator.answer", None)  # nobody answers
    with pytest.raises(UnknownCheckpointError, match="expected one of full, downsampled"):
        comparator.compare(image, question, ["core", name])
    with pytest.raises(UnknownCheckpointError), comparator.use(name):
        pass


def test_names_come_from_files_below_the_folder(
    loaded: ArrCocQwen3VL, checkpoints: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    (folder / "b" / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "sharded.ckpt").mkdir()
    for name in ("b/deep/last", "a", "full", ".hidden/c", ".d", "bad\nname", "notes"):
        suffix = ".txt" if name == "notes" else ".ckpt"
        (folder / f"{name}{suffix}").write_bytes((checkpoints / "core.ckpt").read_bytes())
    (folder / "inside.ckpt").symlink_to(folder / "a.ckpt")
    (folder / "outside.ckpt").symlink_to(checkpoints / "core.ckpt")
    comparator = CheckpointComparator(loaded)
    expected = ["a", "b/deep/last", "full.ckpt", "inside"]
    assert comparator.register_folder(folder) == expected
    assert comparator.names == [*BUILT_IN, *expected]
    (folder / "e.ckpt").touch()
    assert comparator.register_folder(folder) == sorted([*expected, "e"]), "called again"
    with comparator.use("inside"):
        pass
    with pytest.raises(MissingCheckpointError, match="folder"):
        comparator.register_folder(tmp_path / "nowhere")


def test_a_name_belongs_to_one_file(
    loaded: ArrCocQwen3VL, checkpoints: Path, tmp_path: Path
) -> None:
    comparator = CheckpointComparator(loaded)
    comparator.register("mine", checkpoints / "core.ckpt")
    comparator.register("mine", checkpoints / "core.ckpt")
    with pytest.raises(ValueError, match="another checkpoint already"):
        comparator.register("mine", checkpoints / "forty.ckpt")
    for name, words in (("full", "there always"), (" ", "printable"), ("a\x1b[2J", "printable"),
                        ("x" * 201, "printable")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            comparator.register(name, checkpoints / "core.ckpt")
    with pytest.raises(MissingCheckpointError, match="no file"):
        comparator.register("other", tmp_path / "nothing.ckpt")


def test_bad_arguments_are_refused(loaded: ArrCocQwen3VL, checkpoints: Path) -> None:
    for wrong in ({"max_loaded": 0}, {"max_cache_mb": 0}, {"timeout_s": 0}, {"max_waiting": -1}):
        with pytest.raises(ValueError, match="max_loaded"):
            CheckpointComparator(loaded, **wrong)
    with pytest.raises(ValueError, match="select: a loaded model has its own"):
        CheckpointComparator(loaded, select="after_vision")
    with pytest.raises(ValueError, match="come from the checkpoints"):
        CheckpointComparator("tiny", lora=add_lora)
    with pytest.raises(FileNotFoundError, match="No backbone"):
        CheckpointComparator("nonsense")
    comparator = CheckpointComparator(loaded)
    with pytest.raises(TypeError, match="a picture of PIL"):
        comparator.compare("image.png", "What?", ["full"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without lora"):
        CheckpointComparator(ArrCocQwen3VL.from_pretrained("tiny", lora=add_lora))
    with pytest.raises(ValueError, match="processor"):
        CheckpointComparator(ArrCocQwen3VL(loaded.backbone, loaded.arr_coc))


def test_what_a_run_saved_can_be_compared(
    tmp_path: Path, image: Image.Image, question: str
) -> None:
    model = ArrCocQwen3VL.from_pretrained("tiny", dtype="float32", budget=0.5)
    data = VqaDataModule(
        DigitQuestions("train", 2, canvas_px=(128, 128), digits=3), batch_size=1, num_workers=0
    )
    callbacks: list[Any] = [AtomicCheckpoint(tmp_path, "last", every_n_train_steps=1)]
    pl.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, callbacks=callbacks,
    ).fit(ArrCocModule(model), data)  # fmt: skip
    comparator = CheckpointComparator("tiny", budget=0.25, dtype="float32", max_new_tokens=1)
    assert comparator.register_folder(tmp_path) == ["last"]
    assert comparator.describe("last").manifest.step == 1
    with comparator.use("last") as used:
        for name, value in model.arr_coc.state_dict().items():
            assert torch.equal(value, used.arr_coc.state_dict()[name]), name
    (found,) = comparator.compare(image, question, ["last"])
    assert found.tokens == 3
