"""A row of somebody's data set -> questions with answers and the names of their pictures."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lightning_arrcoc.data.sample import Turn

KEYS = ("image", "images", "question", "answer", "answers", "conversations", "family")
PLACEHOLDER = "<image>"
SPEAKERS = {"human": "asks", "user": "asks", "gpt": "answers", "assistant": "answers"}
# Words that steer the model; in a question they would forge an image or the end of a turn.
STEERING = re.compile(r"<\|[^|\s]{1,40}\|>")


class Record(NamedTuple):
    """What a row says.

    Attributes:
        pictures: one or more, each a name, encoded bytes, or a mapping with `bytes` and `path`.
        turns: one or more questions with their answers.
        family: a row of the result tables.
    """

    pictures: tuple[Any, ...]
    turns: tuple[Turn, ...]
    family: str


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse a column mapping from a word that no row is asked for.

    Raises:
        ValueError: there is such a word.
    """
    unknown = set(columns) - set(KEYS)
    if unknown:
        raise ValueError(
            f"columns has {', '.join(sorted(unknown))}; expected some of {', '.join(KEYS)}, each "
            "with the name it has in the data."
        )


def read_record(row: Mapping[str, Any], columns: Mapping[str, str]) -> Record:
    r"""Understand a row.

    It has `image` or `images`, and `question` with `answer` or `answers`; or `conversations`, as
    LLaVA writes them: ``[{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", ...}]``,
    with the pictures before the first question. Of several answers the most frequent is trained
    on, of equally frequent ones the first; where there is an `answer` as well, that one.

    Args:
        row: values by column.
        columns: our word -> the column's name, as far as they differ; dots lead into a mapping.

    Raises:
        ValueError: something is missing or cannot be understood.
    """
    found = {key: value_of(row, columns.get(key, key)) for key in KEYS}
    pictures = _pictures(found, columns)
    if found["conversations"] is not None:
        turns = _conversation(found["conversations"], len(pictures))
    else:
        turns = (_question(found, columns, len(pictures)),)
    family = found["family"]
    return Record(pictures, turns, "all" if family is None else _text(family, "family"))


def value_of(row: Mapping[str, Any], name: str) -> Any:
    """A column's value; None where there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _absent(what: str, keys: Sequence[str], columns: Mapping[str, str]) -> ValueError:
    names = " or ".join(f"`{columns.get(key, key)}`" for key in keys)
    return ValueError(f"no {what}; expected {names}.")


def _pictures(found: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[Any, ...]:
    values = found["image"] if found["images"] is None else found["images"]
    if values is None or (isinstance(values, Sequence) and not values):
        raise _absent("picture", ("image", "images"), columns)
    pictures = tuple(values) if isinstance(values, list | tuple) else (values,)
    for picture in pictures:
        if not isinstance(picture, str | bytes | Mapping):
            raise ValueError(f"the picture {picture!r}; expected the name of a file.")
    return pictures


def _question(found: Mapping[str, Any], columns: Mapping[str, str], pictures: int) -> Turn:
    if found["question"] is None:
        raise _absent("question", ("question",), columns)
    question = _text(_unmarked(_text(found["question"], "question"), pictures), "question")
    accepted = _answers(found["answers"])
    if found["answer"] is not None:
        return Turn(question, _text(found["answer"], "answer"), accepted)
    if not accepted:
        raise _absent("answer", ("answer", "answers"), columns)
    return Turn(question, Counter(accepted).most_common(1)[0][0], accepted)


def _answers(values: Any) -> tuple[str, ...]:
    """Answers as a list of texts, or as VQA writes them: a list of mappings, or one of lists."""
    if isinstance(values, Mapping):
        values = values.get("answer")
    if values is None:
        return ()
    if not isinstance(values, list | tuple):
        raise ValueError(f"answers={values!r}; expected a list, or `answer` for a single one.")
    return tuple(
        _text(value.get("answer") if isinstance(value, Mapping) else value, "answer")
        for value in values
    )


def _conversation(messages: Any, pictures: int) -> tuple[Turn, ...]:
    """Questions and answers in turn, without the marks of where the pictures stand."""
    said = [_message(message) for message in messages] if isinstance(messages, list) else []
    roles = [role for role, _ in said]
    if len(said) % 2 and roles[-1] == "asks":
        raise ValueError("no answer to the last question of `conversations`.")
    if not said or roles != ["asks", "answers"] * (len(said) // 2):
        raise ValueError(
            "`conversations` is no list of questions and answers in turn; expected "
            '[{"from": "human", "value": ...}, {"from": "gpt", "value": ...}, ...].'
        )
    texts = [_unmarked(said[0][1], pictures), *(_unmarked(text, 0) for _, text in said[1:])]
    return tuple(
        Turn(_text(question, "question"), _text(answer, "answer"))
        for question, answer in zip(texts[::2], texts[1::2], strict=True)
    )


def _unmarked(text: str, pictures: int) -> str:
    """A text without the marks of where pictures stand; it has none, or one for each of so many."""
    marks = text.count(PLACEHOLDER)
    if marks not in (0, pictures):
        raise ValueError(
            f"{PLACEHOLDER} stands {marks} times in {text[:60]!r}; expected {pictures} times "
            "there, as there are pictures in the first question and none elsewhere."
        )
    return text.replace(PLACEHOLDER, "")


def _message(message: Any) -> tuple[str, str]:
    """Who speaks, and what is said."""
    parts = message if isinstance(message, Mapping) else {}
    speaker = parts.get("from", parts.get("role"))
    said = parts.get("value", parts.get("content"))
    if speaker not in SPEAKERS or not isinstance(said, str):
        raise ValueError(
            f"the message {str(message)[:60]!r}; expected from `human` or `gpt`, and a text."
        )
    return SPEAKERS[speaker], said


def _text(value: Any, what: str) -> str:
    """A text or number as text, without space at its ends."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not isinstance(value, str) and not (number and math.isfinite(value)):
        raise ValueError(f"the {what} {value!r}; expected a text.")
    text = str(value).strip()
    if not text:
        raise ValueError(f"no {what}: it is empty.")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"the {what} {text[:60]!r} holds half a letter; expected Unicode.")
    steering = STEERING.search(text)
    if steering:
        raise ValueError(f"the {what} holds {steering[0]!r}, a word that steers the model.")
    return text
