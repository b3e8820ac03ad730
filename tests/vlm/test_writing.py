"""Text as it comes."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_arrcoc.vlm.writing import AnswerWriter

END = 0


class Bytes:
    """A tokenizer of single bytes; 0 ends a turn."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return bytes(ids).decode("utf-8", "replace")


def written(tokens: bytes, **options: Any) -> tuple[list[str], AnswerWriter]:
    writer = AnswerWriter(Bytes(), {END}, options.pop("most", 99), **options)  # type: ignore[arg-type]
    shown = []
    for token in tokens:
        if writer.reason is None:
            shown.append(writer.push(token))
    return shown, writer


def test_words_are_shown_as_they_come() -> None:
    shown, writer = written(b"ab\0")
    assert (shown, writer.reason, writer.tokens) == (["a", "b", ""], "stop", 2)


def test_half_a_letter_waits_for_the_rest() -> None:
    shown, _ = written("é!".encode() + b"\0")
    assert shown == ["", "é", "!", ""]


def test_an_answer_that_ends_in_half_a_letter_shows_that() -> None:
    shown, writer = written("é".encode()[:1], most=1)
    assert (shown, writer.reason) == (["\N{REPLACEMENT CHARACTER}"], "length")


def test_an_answer_is_cut_off_at_its_length() -> None:
    shown, writer = written(b"abc", most=2)
    assert (shown, writer.reason, writer.tokens) == (["a", "b"], "length", 2)


@pytest.mark.parametrize(
    ("text", "stop", "whole", "reason"),
    [
        (b"abSTOPc\0", ("STOP",), "ab", "stop"),
        (b"abSTO\0", ("STOP",), "abSTO", "stop"),
        (b"aSTSTOPb", ("STOP",), "aST", "stop"),
        (b"a.b;c", (";", "."), "a", "stop"),
        (b"ST", ("STOP",), "ST", "length"),
    ],
)
def test_a_stop_sequence_ends_the_answer_and_is_never_shown(
    text: bytes, stop: tuple[str, ...], whole: str, reason: str
) -> None:
    shown, writer = written(text, stop=stop, most=len(text))
    assert ("".join(shown), writer.reason) == (whole, reason)
    assert all("STOP" not in "".join(shown[:n]) for n in range(len(shown)))
