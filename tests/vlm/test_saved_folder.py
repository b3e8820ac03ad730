"""A saved folder gives back the model, and one that is not what it says is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import load_file, save_file

from lightning_arrcoc.relevance import (
    FixedTensions,
    Knowing,
    TextureGenerator,
    TokenAllocator,
    build_realizer,
)
from lightning_arrcoc.vlm import ArrCocQwen3VL, saved_folder
from lightning_arrcoc.vlm.exported_files import ADAPTER, CARD, CONFIG, WEIGHTS
from lightning_arrcoc.vlm.identity import remember_identity
from lightning_arrcoc.vlm.lora import add_lora, lora_parameters
from lightning_arrcoc.vlm.saved_folder import save_folder, write_folder

OTHER = partial(
    build_realizer,
    texture=TextureGenerator(["red", "saliency", "contrast"]),
    knowing=partial(Knowing, scorers=["information", "participatory"]),
    balancer=FixedTensions(0.6, 0.1, 0.9),
    allocator=TokenAllocator(coarse=False, temperature=0.5),
    query_blind=True,
)
Change = Callable[[dict[str, Any]], None]


def tiny(**options: Any) -> ArrCocQwen3VL:
    torch.manual_seed(0)
    model = ArrCocQwen3VL.from_pretrained("tiny", dtype="float32", **options).eval()
    with torch.no_grad():
        for weight in [*model.arr_coc.parameters(), *lora_parameters(model.backbone).values()]:
            weight.add_(0.1 * torch.randn(weight.shape))
    return model


def logits(model: ArrCocQwen3VL) -> torch.Tensor:
    pixels = torch.randint(256, (96, 128, 3), generator=torch.manual_seed(0)).to(torch.uint8)
    assert model.processor is not None
    batch: dict[str, Any] = model.processor(
        [{"images": [Image.fromarray(pixels.numpy())], "questions": ["Which?"], "answers": []}]
    )
    with torch.no_grad():
        found: torch.Tensor = model(**batch).logits
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "plain"
    tiny(select="after_vision", budget=5).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_what_was_saved_comes_back(saved: Path) -> None:
    model, again = tiny(select="after_vision", budget=5), ArrCocQwen3VL.from_pretrained(str(saved))
    assert (again.select, again.budget) == ("after_vision", 5)
    for name, value in model.arr_coc.state_dict().items():
        assert torch.equal(value, again.arr_coc.state_dict()[name])
    again = ArrCocQwen3VL.from_pretrained(str(saved), dtype="float32").eval()
    assert torch.equal(logits(again), logits(model))


def test_select_and_budget_may_be_others(saved: Path) -> None:
    model = ArrCocQwen3VL.from_pretrained(str(saved), select="before_vision", budget=0.5)
    assert (model.select, model.budget) == ("before_vision", 0.5)


def test_every_part_of_ours_comes_back(tmp_path: Path) -> None:
    model = tiny(arr_coc=OTHER)
    model.save_pretrained(tmp_path / "other")
    again = ArrCocQwen3VL.from_pretrained(str(tmp_path / "other"), dtype="float32").eval()
    assert torch.equal(logits(again), logits(model))
    network = again.arr_coc
    assert isinstance(network.balancer, FixedTensions)
    assert (network.query_blind, network.allocator.coarse) == (True, False)
    assert network.allocator.temperature == 0.5
    assert network.knowing.scorers == ("information", "participatory")


def test_a_part_of_ones_own_is_refused(tmp_path: Path) -> None:
    class Mine(TokenAllocator):
        pass

    model = tiny(arr_coc=partial(build_realizer, allocator=Mine()))
    with pytest.raises(ValueError, match="ARR-COC holds a Mine"):
        model.save_pretrained(tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_the_backbone_is_named_and_nothing_of_it_is_in_the_folder(saved: Path) -> None:
    assert json.loads((saved / CONFIG).read_text())["backbone"] == "tiny"
    names = {path.name for path in saved.iterdir()}
    assert {CONFIG, WEIGHTS, CARD, "tokenizer.json", "preprocessor_config.json"} <= names
    assert [name for name in names if name.endswith((".safetensors", ".bin", ".pt", ".py"))] == [
        WEIGHTS
    ]


def test_a_local_backbone_is_named_by_where_it_lies(backbone_folder: Path, tmp_path: Path) -> None:
    ArrCocQwen3VL.from_pretrained(str(backbone_folder)).save_pretrained(tmp_path / "on")
    assert json.loads((tmp_path / "on" / CONFIG).read_text())["backbone"] == str(backbone_folder)
    ArrCocQwen3VL.from_pretrained(str(tmp_path / "on"))


def test_the_card_says_that_nothing_was_measured(saved: Path) -> None:
    card = (saved / CARD).read_text()
    assert "so no number is told here" in card
    assert "| budget | 5 |" in card
    assert "base_model" not in card  # the embedded one has no place on the hub


def test_a_folder_is_not_overwritten_without_being_asked(copy: Path) -> None:
    model = tiny()
    with pytest.raises(FileExistsError, match=r"exists already.*overwrite=true"):
        model.save_pretrained(copy)
    assert ArrCocQwen3VL.from_pretrained(str(copy)).budget == 5
    model.save_pretrained(copy, overwrite=True)
    assert ArrCocQwen3VL.from_pretrained(str(copy)).budget == 0.1


def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="was not written by an export"):
        tiny().save_pretrained(mine, overwrite=True)
    assert (mine / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "name", ["my_notes.txt", ".git/HEAD", "adapter/notes.txt", "sub/config.json"]
)
def test_a_file_that_no_export_writes_keeps_the_folder_and_is_named(name: str, copy: Path) -> None:
    before = (copy / CONFIG).read_text()
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text("years of work")
    with pytest.raises(ValueError, match=f"holds '{name}', which no export writes"):
        save_folder(object(), copy, overwrite=True)  # type: ignore[arg-type]  # nothing is asked of it
    assert (copy / name).read_text() == "years of work"
    assert (copy / CONFIG).read_text() == before


class Parts(torch.Tensor):
    """As one of torchao's: a parameter that is made of several tensors."""

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return [], None


def test_a_quantized_backbone_is_not_saved(tmp_path: Path) -> None:
    model = tiny()
    weight = model.backbone.lm_head.weight
    model.backbone.lm_head.weight = torch.nn.Parameter(
        weight.detach().as_subclass(Parts), requires_grad=False
    )
    with pytest.raises(ValueError, match=r"are quantized.*Export from the checkpoint"):
        model.save_pretrained(tmp_path / "again")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")  # torchao's, about torch
def test_a_folder_in_int8_is_not_saved_again(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    (tmp_path / "int8").mkdir()
    write_folder(tiny(), tmp_path / "int8", language_model="int8")
    again = ArrCocQwen3VL.from_pretrained(str(tmp_path / "int8"))
    with pytest.raises(ValueError, match="are quantized"):
        again.save_pretrained(tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["network"].update(channels=["red", "os.system"]), "os.system"),
        (lambda c: c["network"].update(scorers=["mine"]), "scorers"),
        (lambda c: c["network"].update(_target_="os.system"), "_target_"),
        (lambda c: c.update(lora={"rank": 10**9, "alpha": 1, "targets": ["q_proj"]}), "rank"),
        (lambda c: c.update(format="onnx"), "format"),
        (lambda c: c.update(version=2), "version"),
        (lambda c: c.update(select="elsewhere"), "select"),
        (lambda c: c.update(budget=-1), "budget=-1"),
        (lambda c: c.update(budget=True), "budget"),
        (lambda c: c.update(language_model="int2"), "language_model"),
        (lambda c: c.pop("network"), "network"),
        (lambda c: c["backbone_identity"].update(weights_sha256="0"), "another backbone"),
        (lambda c: c["backbone_identity"].update(text_layers=3), "text_layers"),
        (lambda c: c["network"].update(channels=["red"]), "holds another architecture"),
        (lambda c: c["network"].update(adaptive=False), "holds another architecture"),
    ],
)
def test_a_folder_that_says_what_cannot_be_is_refused(
    change: Change, said: str, copy: Path
) -> None:
    told = json.loads((copy / CONFIG).read_text())
    change(told)
    (copy / CONFIG).write_text(json.dumps(told))
    with pytest.raises(ValueError, match=said):
        ArrCocQwen3VL.from_pretrained(str(copy))


def test_a_backbone_that_is_not_there_is_named(copy: Path) -> None:
    told = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps(told | {"backbone": "/nowhere/at/all"}))
    with pytest.raises(FileNotFoundError, match="/nowhere/at/all"):
        ArrCocQwen3VL.from_pretrained(str(copy))


def test_no_json_is_refused_in_a_sentence(copy: Path) -> None:
    (copy / CONFIG).write_text("{")
    with pytest.raises(ValueError, match="is no description of a saved ARR-COC"):
        ArrCocQwen3VL.from_pretrained(str(copy))


@pytest.mark.parametrize("harm", ["cut", "gone", "other", "more"])
def test_weights_that_are_not_those_are_refused(harm: str, copy: Path) -> None:
    path = copy / WEIGHTS
    weights = load_file(path)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "gone":
        path.unlink()
    elif harm == "other":
        save_file(weights | {"null_query": torch.zeros(3)}, path)
    else:
        save_file(weights | {"extra": torch.zeros(3)}, path)
    said = "damaged" if harm in ("cut", "gone") else "null_query|extra"
    with pytest.raises(ValueError, match=said):
        ArrCocQwen3VL.from_pretrained(str(copy))


def test_a_network_or_adapters_of_ones_own_do_not_go_with_a_saved_one(saved: Path) -> None:
    with pytest.raises(ValueError, match="leave out arr_coc, lora and random_weights"):
        ArrCocQwen3VL.from_pretrained(str(saved), arr_coc=build_realizer)


# ------------------------------------------------------------------------------------- adapters


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft
def test_adapters_come_back_and_peft_reads_them_too(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = tiny(lora=partial(add_lora, rank=2, alpha=6))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "lora")
    again = ArrCocQwen3VL.from_pretrained(str(tmp_path / "lora"), dtype="float32").eval()
    for name, value in again.state_dict().items():
        assert torch.equal(value, before[name])
    stock = ArrCocQwen3VL.from_pretrained("tiny", dtype="float32").backbone
    peft.PeftModel.from_pretrained(stock, tmp_path / "lora" / ADAPTER)


def test_merged_adapters_are_the_backbones_own_weights(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = tiny(lora=partial(add_lora, rank=2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "merged", merge_lora=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not (tmp_path / "merged" / ADAPTER).exists()
    again = ArrCocQwen3VL.from_pretrained(str(tmp_path / "merged")).eval()
    assert not hasattr(again.backbone, "peft_config")
    torch.testing.assert_close(logits(again), logits(model), atol=1e-4, rtol=1e-4)
    plain = ArrCocQwen3VL.from_pretrained("tiny", dtype="float32").eval()
    plain.arr_coc.load_state_dict(model.arr_coc.state_dict())
    assert not torch.allclose(logits(plain), logits(model), atol=1e-2)  # the control


def test_there_is_nothing_to_merge_without_adapters(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no adapters to merge"):
        tiny().save_pretrained(tmp_path / "x", merge_lora=True)


def test_settings_of_peft_in_a_folder_are_not_read(tmp_path: Path) -> None:
    """They may name code to import; ours say rank, strength and layers."""
    pytest.importorskip("peft")
    model = tiny(lora=partial(add_lora, rank=2))
    model.save_pretrained(tmp_path / "lora")
    (tmp_path / "lora" / ADAPTER / "adapter_config.json").write_text("not even JSON")
    ArrCocQwen3VL.from_pretrained(str(tmp_path / "lora"))


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A folder that holds its backbone, and what it answers."""
    pytest.importorskip("peft")
    model = tiny(lora=partial(add_lora, rank=2))
    folder = tmp_path_factory.mktemp("merged") / "own"
    model.save_pretrained(folder, merge_lora=True)
    return folder, logits(loaded(folder))


def loaded(folder: Path) -> ArrCocQwen3VL:
    return ArrCocQwen3VL.from_pretrained(str(folder)).eval()


def test_a_backbone_of_its_own_goes_along_wherever_it_is_saved(
    merged: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    shutil.copytree(merged[0], tmp_path / "first")
    loaded(tmp_path / "first").save_pretrained(tmp_path / "second")
    shutil.rmtree(tmp_path / "first")
    model = loaded(tmp_path / "second")
    # over itself, where its weights are mapped from
    model.save_pretrained(tmp_path / "second", overwrite=True)
    assert torch.equal(logits(model), merged[1])
    assert torch.equal(logits(loaded(tmp_path / "second")), merged[1])
    assert json.loads((tmp_path / "second" / CONFIG).read_text())["backbone"] == "."


def test_what_is_pushed_of_it_is_whole_and_names_no_path(
    merged: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    api: Any = FakeApi(tmp_path)
    model = loaded(merged[0])
    add_lora(model.backbone, rank=2)  # new ones, which change nothing yet
    model.push_to_hub("me/merged", api=api)
    pushed = tmp_path / "me" / "merged"
    assert torch.equal(logits(loaded(pushed)), merged[1])
    files = [path for path in pushed.rglob("*") if path.is_file()]
    assert pushed / ADAPTER / "adapter_config.json" in files
    assert not [path for path in files if str(merged[0]).encode() in path.read_bytes()]


def test_what_was_remembered_of_a_backbone_is_not_said_of_a_merged_one(tmp_path: Path) -> None:
    """As after `fit` in the same process."""
    pytest.importorskip("peft")
    model = tiny(lora=partial(add_lora, rank=2))
    remember_identity(model.backbone)
    model.save_pretrained(tmp_path / "merged", merge_lora=True)
    loaded(tmp_path / "merged")


# ------------------------------------------------------------------------------------------ hub


class FakeApi:
    """As huggingface_hub's, and keeps what it is given in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, list[Any]()

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> str:
        self.made.append((repo_id, private, exist_ok))
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        shutil.copytree(folder_path, self.folder / repo_id)


def test_it_is_pushed_and_comes_back_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api: Any = FakeApi(tmp_path)
    model = tiny()
    assert model.push_to_hub("me/digits", private=True, api=api) == "https://hub/me/digits"
    assert api.made == [("me/digits", True, True)]

    def fetched(name: str, file: str) -> str:
        return str(tmp_path / name / file)

    def snapshot(name: str, *, allow_patterns: list[str]) -> str:
        assert not any("py" in pattern or "bin" in pattern for pattern in allow_patterns)
        return str(tmp_path / name)

    monkeypatch.setattr(saved_folder, "hf_hub_download", fetched)
    monkeypatch.setattr(saved_folder, "snapshot_download", snapshot)
    again = ArrCocQwen3VL.from_pretrained("me/digits", dtype="float32").eval()
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("error", [EntryNotFoundError, LocalEntryNotFoundError, OSError])
def test_a_hub_id_without_our_file_is_a_backbone(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str, file: str) -> str:
        raise error(f"{file} of {name}")

    monkeypatch.setattr(saved_folder, "hf_hub_download", absent)
    assert saved_folder.saved_folder("Qwen/Qwen3-VL-2B-Instruct") is None
    assert saved_folder.saved_folder("tiny") is None
    assert saved_folder.saved_folder("/nowhere") is None
