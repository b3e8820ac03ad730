"""Tensors from a safetensors file, once it is sure that they are those that are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

MOST_NAMED = 3  # Chosen by us: of many that do not fit the first few tell what is wrong


def read_tensors(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU.

    Args:
        path: a safetensors file.
        expected: names and shapes; nothing is read into memory unless they are the same.

    Raises:
        ValueError: they differ, or the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            wrong = [
                f"{name}: {shapes.get(name, 'absent')} in the file, "
                f"{tuple(expected[name].shape) if name in expected else 'absent'} here"
                for name in sorted(names | expected.keys())
                if name not in expected or shapes.get(name) != tuple(expected[name].shape)
            ]
            if wrong:
                raise ValueError(
                    f"{str(path)!r} holds another architecture: {'; '.join(wrong[:MOST_NAMED])}"
                    f"{f' and {len(wrong) - MOST_NAMED} more' if len(wrong) > MOST_NAMED else ''}."
                )
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{str(path)!r} is missing or damaged ({error}); write or fetch it anew."
        ) from error
