"""Text of any letters as one value of Hydra's grammar."""

from __future__ import annotations

import re

QUOTED = re.compile(r"""(['"])(?:\\.|(?!\1)[^\\])*\1""", re.DOTALL)


def quoted(text: str) -> str:
    """The text in quotes, from which Hydra and OmegaConf read it back letter for letter.

    The one text that cannot be told so is ``???``, OmegaConf's word for a value that is missing.
    """
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # an interpolation otherwise
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)\Z", r"\1\1", text) + "'"


def is_quoted(value: str) -> bool:
    """Whether all of it is one text in quotes; `"red" or "green"` are two."""
    return QUOTED.fullmatch(value) is not None
