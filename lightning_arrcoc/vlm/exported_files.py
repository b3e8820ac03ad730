"""The names of all files that exports write, by which a folder of theirs is told from others."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

CONFIG, WEIGHTS, ADAPTER, CARD = (
    "arr_coc_config.json", "arr_coc.safetensors", "adapter", "README.md",
)  # fmt: skip
WRITTEN = (
    CONFIG, WEIGHTS, CARD, f"{ADAPTER}/adapter_config.json", f"{ADAPTER}/adapter_model.safetensors",
    # tokenizer and image processor, as transformers names them
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "additional_chat_templates/*.jinja",
    "preprocessor_config.json",
    # a backbone
    "config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json",
    "model-?????-of-?????.safetensors",
    # the selector as a program, and the file that Python writes where its allocation was imported
    "selector.onnx", "selector.pt2", "selector_legacy.torchscript.pt", "allocate.py",
    "__pycache__/allocate.*.pyc",
    "selector_fp32.pt2", "selector_int8_dynamic.pt2", "selector_int8_static.pt2", "int8.json",
)  # fmt: skip


def is_ours(folder: Path) -> bool:
    """Whether exports wrote this folder and all that is in it; nothing else is ever replaced.

    Raises:
        FileExistsError: something else has this name.
        ValueError: a file in it has a name that no export writes.
    """
    if not folder.exists():
        return True
    if not (folder / CONFIG).is_file():
        raise FileExistsError(
            f"{str(folder)!r} was not written by an export (it has no {CONFIG}), so it is not "
            "replaced. Name another folder."
        )
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_file = path.is_symlink() or not path.is_dir()
        if is_file and not any(fnmatchcase(name, pattern) for pattern in WRITTEN):
            raise ValueError(
                f"{str(folder)!r} holds {name!r}, which no export writes, so it is not replaced, "
                "overwrite=true or not. Move that elsewhere, or name another folder."
            )
    return True
