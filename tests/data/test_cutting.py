"""A batch cut into smaller ones teaches what the whole does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from PIL import Image

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL
from lightning_arrcoc.callbacks import OOMGuard
from lightning_arrcoc.data.collate import Batch, Collator
from lightning_arrcoc.data.cutting import cut_batch, shares
from lightning_arrcoc.data.sample import Sample, Turn
from lightning_arrcoc.objectives import AttributionDistillation, FullTokens, HardChoice


def picture(width: int, height: int, seed: int) -> Image.Image:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (height, width, 3), generator=random, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def samples() -> list[Sample]:
    """Images of several sizes, two in one sample, none in another, one or two questions."""
    one, two = Turn("Which digit is red?", "7"), Turn("How many digits are there, say?", "3")
    return [
        Sample((picture(96, 64, 0),), (one,)),
        Sample((picture(64, 64, 1), picture(128, 96, 2)), (one, two)),
        Sample((), (two,)),
        Sample((picture(64, 128, 3),), (two,)),
        Sample((picture(96, 96, 4),), (two, one)),
    ]


def batch_of(module: ArrCocModule, chosen: list[Sample], pack: bool) -> Batch:
    assert module.processor is not None
    return Collator(module.processor, for_measuring=True, pack=pack)(chosen)


@pytest.fixture
def module(backbone_folder: Path) -> ArrCocModule:
    torch.manual_seed(0)
    return ArrCocModule(ArrCocQwen3VL.from_pretrained(str(backbone_folder), budget=0.25)).train()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
@pytest.mark.parametrize("pack", [False, True])
def test_a_part_is_what_a_collator_makes_of_its_samples(
    module: ArrCocModule, pack: bool, most: int
) -> None:
    parts = cut_batch(batch_of(module, samples(), pack), most)
    left = samples()
    for part in parts:
        count = len(part["answers"])
        assert count <= most
        assert same(dict(part), dict(batch_of(module, left[:count], pack)))
        left = left[count:]
    assert left == []


def test_textures_go_with_their_images(module: ArrCocModule) -> None:
    batch = batch_of(module, samples(), pack=True)
    textures = [torch.full((1,), float(number)) for number in range(5)]
    batch["inputs"]["textures"] = textures
    parts = cut_batch(batch, 2)
    found = [part["inputs"].get("textures", []) for part in parts]
    assert [texture for some in found for texture in some] == textures
    assert [len(part) for part in found] == [sum(part["images"]) for part in parts]


def test_what_nobody_can_cut_is_refused(module: ArrCocModule) -> None:
    batch = batch_of(module, samples(), pack=True)
    batch["inputs"]["notes"] = ["a", "b", "c", "d", "e"]
    with pytest.raises(TypeError, match=r"inputs\['notes'\]: found list, expected a tensor"):
        cut_batch(batch, 2)


def gradients(module: ArrCocModule, batch: Batch, most: int) -> tuple[float, torch.Tensor]:
    """Loss and gradients of a batch in parts."""
    module.zero_grad()
    total = 0.0
    for part, share in module.split_batch(batch, most):
        loss = module.objective(module.model, part["inputs"], 0.5).loss * share
        loss.backward()
        total += float(loss.detach())
    found = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    return total, torch.cat(found)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("what", ["attribution", "hard", "backbone"])
def test_parts_teach_what_the_whole_does(backbone_folder: Path, what: str, pack: bool) -> None:
    torch.manual_seed(0)
    objective: Any = {
        "attribution": AttributionDistillation(faded_turns=0),
        "hard": HardChoice(budgets=(0.25, 0.25)),
        "backbone": FullTokens(),
    }[what]
    model = ArrCocQwen3VL.from_pretrained(str(backbone_folder), budget=0.25)
    trains: Any = "backbone" if what == "backbone" else "arr_coc"
    module = ArrCocModule(model, trains=trains, objective=objective).train()
    # Without an image nothing is chosen, so alone it teaches a choice nothing, not even its loss.
    asked = [sample for sample in samples() if sample.images or what != "hard"]
    batch = batch_of(module, asked, pack)
    whole, expected = gradients(module, batch, 5)
    for most in (1, 2):
        parts, found = gradients(module, batch, most)
        assert parts == pytest.approx(whole, rel=1e-4)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert expected.abs().max() > 0


def test_shares_add_up_and_follow_what_a_loss_is_a_mean_over(module: ArrCocModule) -> None:
    parts = cut_batch(batch_of(module, samples(), pack=True), 2)
    by_question = shares(parts, "questions")
    assert by_question == pytest.approx([3 / 6, 0, 3 / 6])
    assert sum(shares(parts, "answer_tokens")) == pytest.approx(1)


def test_a_batch_of_ours_that_does_not_fit_is_split(
    module: ArrCocModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    step = ArrCocModule.training_step

    def short(self: ArrCocModule, batch: Batch, batch_idx: int) -> torch.Tensor:
        seen.append(len(batch["answers"]))
        if seen[-1] > 2:
            raise torch.OutOfMemoryError("Tried to allocate 1.00 GiB. GPU 0 has 0 free.")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ArrCocModule, "training_step", short)
    batch = batch_of(module, samples()[:4], pack=True)
    trainer = pl.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        callbacks=[OOMGuard("split")],
    )  # fmt: skip
    with (
        pytest.warns(UserWarning, match="Out of memory at step 0"),
        pytest.warns(UserWarning, match="no `val_dataloader`"),
    ):
        trainer.fit(module, torch.utils.data.DataLoader([batch, batch], batch_size=None))
    assert seen == [4, 2, 2, 2, 2]
