"""The words of the command `ask` -> overrides, ahead of Hydra and without torch."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from lightning_arrcoc.config import FLAGS, WITH_VALUE, config_dir
from lightning_arrcoc.free_text import quoted

OVERRIDE = re.compile(r"[+~]*([A-Za-z_]\w*)[\w./@-]*=")  # how a word begins that sets a key
FLAG = re.compile(r"--?[A-Za-z][\w-]*(=|\Z)")
USAGE = (
    'It takes a picture and a question, then key=value: ask photo.png "Which digit is red?" '
    "budget=0.25"
)


def named_words(arguments: list[str]) -> list[str]:
    """The arguments of `ask`, picture and question as overrides in quotes.

    These two are the first words that neither set a key of ask's configuration nor are a flag or
    its value, whatever letters they have. A question that begins as a key does, such as
    ``budget=3?``, needs ``question=`` before it.

    Raises:
        ValueError: it is not these two.
    """
    if "-m" in arguments or "--multirun" in arguments:
        raise ValueError("ask answers one question; a sweep is for the other commands.")
    words, rest = _words_and_rest(arguments)
    if not words:
        return rest
    more = [word for word in words[2:] if not (OVERRIDE.match(word) or FLAG.match(word))]
    if len(words) < 2 or more:
        raise ValueError(f"ask was given {len(words)} of two words: {', '.join(words)}. {USAGE}.")
    image, question, *misspelt = words  # whoever checks keys and flags says what was meant
    return [f"image={quoted(image)}", f"question={quoted(question)}", *rest, *misspelt]


def _words_and_rest(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What stands for itself, and what sets a key or is a flag or its value."""
    words: list[str] = []
    rest: list[str] = []
    for place, word in enumerate(arguments):
        key = OVERRIDE.match(word)
        named = key is not None and key[1] in _known_keys()
        flag = word in FLAGS or word.split("=")[0] in WITH_VALUE
        value = place > 0 and arguments[place - 1] in WITH_VALUE
        (rest if named or flag or value else words).append(word)
    return words, rest


@cache
def _known_keys() -> frozenset[str]:
    """First parts of all that can be set for `ask`."""
    config: Any = OmegaConf.load(config_dir() / "ask.yaml")
    groups = [key for choice in config.pop("defaults") if choice != "_self_" for key in choice]
    return frozenset([*config, *groups])
