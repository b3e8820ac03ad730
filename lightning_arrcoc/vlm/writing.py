"""Tokens as they come -> text that can be shown at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

Reason = Literal["stop", "length", "timeout"]
TORN = "\N{REPLACEMENT CHARACTER}"  # what the decoder makes of half a letter


class AnswerWriter:
    """Writes one answer, token by token.

    Text is held back while a letter of several tokens is not whole, and while it might be the
    beginning of a stop sequence.

    Args:
        tokenizer: of the model.
        ends: tokens that end a turn.
        most: tokens after which the answer is cut off.
        stop: texts that end the answer and are no part of it.

    Attributes:
        reason: why the answer ended; None while it goes on.
        tokens: how many there are, without the one that ends a turn.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ends: Collection[int],
        most: int,
        stop: Sequence[str] = (),
    ) -> None:
        self.reason: Reason | None = None
        self.tokens = 0
        self._tokenizer, self._ends, self._most, self._stop = tokenizer, ends, most, tuple(stop)
        self._ids: list[int] = []
        self._shown, self._context = 0, 0  # ids that are text already, and where context begins
        self._held = ""

    def push(self, token: int) -> str:
        """What can be shown now."""
        if token in self._ends:
            return self.end("stop")
        self._ids.append(token)
        self.tokens += 1
        if self.tokens >= self._most:
            return self.end("length")
        return self._release(self._decoded())

    def end(self, reason: Reason) -> str:
        """End the answer; what was held back is shown, unless it is beyond a stop sequence."""
        text = self._release(self._decoded(whole=True))
        if self.reason is None:
            text, self._held, self.reason = text + self._held, "", reason
        return text

    def _decoded(self, whole: bool = False) -> str:
        """Text of the tokens since the last time.

        Decoded behind the tokens before, for some tokenizers write a word otherwise where a text
        begins; and not behind all of them, which would take longer with every token.
        """
        before = self._decode(self._ids[self._context : self._shown])
        now = self._decode(self._ids[self._context :])
        if now.endswith(TORN) and not whole:
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return now[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _release(self, text: str) -> str:
        """What of the text cannot be part of a stop sequence any more."""
        text = self._held + text
        found = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if found:
            self._held, self.reason = "", "stop"
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Letters at the end of a text that a stop sequence begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
