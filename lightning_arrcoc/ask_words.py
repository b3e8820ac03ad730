"""The words of the command `ask`, without anything that takes time to import."""

from __future__ import annotations

import re

OVERRIDE = re.compile(r"[+~]*[A-Za-z_][\w./@-]*=")  # how a word begins that sets a key
USAGE = (
    'It takes a picture and a question, then key=value: ask photo.png "Which digit is red?" '
    "budget=0.25"
)


def named_words(arguments: list[str]) -> list[str]:
    """The arguments of `ask`, picture and question as overrides.

    Raises:
        ValueError: it is not these two.
    """
    if "-m" in arguments or "--multirun" in arguments:
        raise ValueError("ask answers one question; a sweep is for the other commands.")
    words = [word for word in arguments if not word.startswith("-") and not OVERRIDE.match(word)]
    rest = [word for word in arguments if word not in words]
    if not words:
        return arguments
    if len(words) != 2:
        raise ValueError(f"ask was given {len(words)} of two words: {', '.join(words)}. {USAGE}.")
    return [f"image={words[0]}", f"question={words[1]}", *rest]
