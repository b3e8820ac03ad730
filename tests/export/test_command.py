"""`python -m lightning_arrcoc export`: what it writes, prints and refuses."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_arrcoc import ArrCocQwen3VL, cli
from lightning_arrcoc.ask_words import named_words
from lightning_arrcoc.config import check_overrides
from lightning_arrcoc.export import FORMATS, command
from lightning_arrcoc.export.selector import SIZES, Checked, SelectorProgram, check

pytestmark = pytest.mark.filterwarnings("ignore")  # the user's program has them as lines
Done = tuple[int, str, str]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    monkeypatch.chdir(tmp_path)

    def called(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["lightning_arrcoc", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        code = left.value.code
        assert isinstance(code, int)
        return code, *capfd.readouterr()

    return called


def test_hf_writes_a_folder_that_loads(
    run: Callable[..., Done], checkpoint: Path, model: ArrCocQwen3VL
) -> None:
    code, out, _ = run("export", f"ckpt={checkpoint}", "format=hf")
    assert code == 0, out
    assert "folder: outputs/export/hf" in out
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["outputs"]
    again = ArrCocQwen3VL.from_pretrained("outputs/export/hf")
    for name, value in model.arr_coc.state_dict().items():
        assert torch.equal(value, again.arr_coc.state_dict()[name])
    code, _, err = run("export", f"ckpt={checkpoint}", "format=hf")
    assert (code, "exists already" in err, "overwrite=true" in err) == (2, True, True)
    assert run("export", f"ckpt={checkpoint}", "format=hf", "overwrite=true")[0] == 0
    # A folder that was exported can be exported again, in another form.
    assert run("export", "ckpt=outputs/export/hf", "format=hf", "out=again")[0] == 0


def test_torch_export_prints_its_errors_and_describes_itself(
    run: Callable[..., Done], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_arrcoc.export import torch_export

    def same(program: SelectorProgram, folder: Path) -> Checked:
        return check(lambda inputs: program(*inputs), program, SIZES[:4])

    for name in ("export_torch", "export_legacy"):  # tested for themselves
        monkeypatch.setattr(torch_export, name, lambda *_: None)
    for name in ("check_torch", "check_legacy"):
        monkeypatch.setattr(torch_export, name, same)
    code, out, _ = run("export", f"ckpt={checkpoint}", "format=torch_export", "out=it")
    assert code == 0, out
    assert "selector.pt2, against torch on 4 sizes" in out
    assert "(legacy)" in out
    told = json.loads(Path("it/arr_coc_config.json").read_text())
    assert told["format"] == "torch_export"
    assert (len(told["channels"]), told["width"], told["cell_px"]) == (13, 96, 32)
    assert told["allocate"] == {"coarse": True, "temperature": 0.25}
    with pytest.raises(ValueError, match="format"):
        ArrCocQwen3VL.from_pretrained("it")


def test_what_answers_otherwise_is_not_written_and_ends_with_1(
    run: Callable[..., Done], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(program: object, new: Path) -> list[str]:
        (new / "selector.pt2").write_bytes(b"")
        off = Checked({"relevance_logit": 0.5}, 1, 0)
        return command._sound("It", lambda *_: off, program, new)

    monkeypatch.setattr(command, "_torch_export", wrong)
    code, out, _ = run("export", f"ckpt={checkpoint}", "format=torch_export")
    assert code == 1
    assert "NOT EQUAL" in out
    assert not Path("outputs/export/torch_export").exists()
    assert list(Path("outputs/export").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("format=onx",), "format=onx; choose one. hf:"),
        ((), "format=None; choose one"),
        (("format=onnx", "merge_lora=true"), "merge_lora=true is for format=hf"),
        (("format=hf", "merge_lora=true"), "no adapters to merge"),
        (("format=hf", "model.arr_coc.query_blind=true"), "this is read off"),
        (("format=hf", "model/lora=default"), "this is read off"),
        (("format=int8", "bits=int3"), "bits=int3; choose int8 or int4"),
        (("format=int8", "samples=0"), "samples=0; expected 1 or more"),
    ],
)
def test_wrong_words_are_one_line(
    words: tuple[str, ...], said: str, run: Callable[..., Done], checkpoint: Path
) -> None:
    if "bits=int3" in words:
        pytest.importorskip("torchao")
    code, out, err = run("export", f"ckpt={checkpoint}", *words)
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert said in line
    assert list(Path.cwd().rglob("*.json")) == []


def test_a_missing_package_is_named_with_the_line_that_brings_it(
    run: Callable[..., Done], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_arrcoc.export import extras

    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    for form, extra in (("onnx", "export"), ("int8", "quantize")):
        code, _, err = run("export", f"ckpt={checkpoint}", f"format={form}")
        assert code == 2
        assert f'pip install "lightning-arrcoc[{extra}]"' in err


def test_every_format_has_a_file_of_its_own() -> None:
    folder = Path(command.__file__).parent
    assert all((folder / f"{name}.py").is_file() for name in FORMATS)


DOC = Path(__file__).parents[2] / "docs" / "from_checkpoint_to_service.md"


@pytest.mark.parametrize(
    "line", re.findall(r"^python -m lightning_arrcoc (?:export|ask).*$", DOC.read_text(), re.M)
)
def test_the_page_names_words_that_exist(line: str) -> None:
    name, *words = shlex.split(line, comments=True)[3:]
    words = named_words(words) if name == "ask" else words
    chosen = [word.replace("...", "last.ckpt").replace("<run>", "run") for word in words]
    assert len(check_overrides(name, chosen)) == len(words)


def test_the_page_tells_of_every_format() -> None:
    assert all(f"| `{name}` |" in DOC.read_text() for name in FORMATS)
