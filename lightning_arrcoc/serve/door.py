"""From a request to a prompt: everything that can be wrong is found here, ahead of the queue."""

from __future__ import annotations

from PIL import Image

from lightning_arrcoc.relevance.allocation import token_count
from lightning_arrcoc.serve.errors import RequestError
from lightning_arrcoc.serve.pictures import open_picture
from lightning_arrcoc.serve.questions import ChatRequest, TextPart
from lightning_arrcoc.serve.settings import ServerSettings
from lightning_arrcoc.vlm.answering import Prompt
from lightning_arrcoc.vlm.chat import ChatProcessor
from lightning_arrcoc.vlm.messages import Message, encode_messages, fit_image

LETTERS_A_TOKEN = 32  # chosen by us: more than words have; text is not cut into tokens beyond that


class Door:
    """Makes prompts of requests.

    Args:
        processor: of the model.
        settings: with the limits.
        positions: that the language model knows; a prompt and its answer must fit.
    """

    def __init__(self, processor: ChatProcessor, settings: ServerSettings, positions: int) -> None:
        self._processor, self._settings = processor, settings
        self._room = min(settings.max_prompt_tokens, positions)
        self._positions = positions

    def prompt(self, asked: ChatRequest, deadline: float) -> Prompt:
        """What the model is to answer.

        Args:
            asked: the request.
            deadline: by `time.monotonic`.

        Raises:
            RequestError: something is too much, or cannot be what it should.
        """
        if asked.model not in (None, self._settings.name):
            raise RequestError(
                404,
                f"There is no model {asked.model!r}; expected {self._settings.name!r}.",
                param="model",
                code="model_not_found",
            )
        tokens = self._answer_tokens(asked)
        messages, images = self._messages(asked, deadline)
        try:
            row = encode_messages(self._processor, messages, images)
        except ValueError as error:
            raise RequestError(400, str(error), param="messages") from error
        length = len(row.input_ids)
        if length > self._room or length + tokens > self._positions:
            raise RequestError(
                400,
                f"The prompt has {length} tokens and the answer up to {tokens}; expected at most "
                f"{self._room} of the prompt, and {self._positions} together.",
                param="messages",
                code="context_length_exceeded",
            )
        budget = asked.arr_coc.budget
        if images and budget is not None:
            try:
                token_count(budget, row.cells)
            except ValueError as error:
                raise RequestError(400, str(error), param="arr_coc.budget") from error
        return Prompt(
            row,
            tuple(images),
            budget,
            tokens,
            asked.stops,
            asked.temperature or 0.0,  # greedy, as the other commands answer
            1.0 if asked.top_p is None else asked.top_p,
            asked.seed,
            deadline,
        )

    def _answer_tokens(self, asked: ChatRequest) -> int:
        most = self._settings.max_tokens
        name = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
        tokens = asked.max_completion_tokens or asked.max_tokens
        if tokens is None:
            return min(most, self._settings.default_tokens)
        if tokens > most:
            raise RequestError(400, f"{name}={tokens}; expected at most {most}.", param=name)
        return tokens

    def _messages(
        self, asked: ChatRequest, deadline: float
    ) -> tuple[list[Message], list[Image.Image]]:
        """Messages for the template, and their images in its order."""
        if asked.messages[-1].role != "user":
            raise RequestError(400, "The last message must be the user's.", param="messages")
        parts = [part for message in asked.messages for part in message.parts]
        letters = sum(len(part.text) for part in parts if isinstance(part, TextPart))
        if letters > LETTERS_A_TOKEN * self._room:
            raise RequestError(
                400,
                f"The messages have {letters} letters, too many for {self._room} tokens.",
                param="messages",
                code="context_length_exceeded",
            )
        if (
            len(parts) - sum(isinstance(part, TextPart) for part in parts)
            > self._settings.max_images
        ):
            raise RequestError(
                400, f"More than {self._settings.max_images} images.", param="messages"
            )
        images: list[Image.Image] = []
        messages: list[Message] = []
        for message in asked.messages:
            role = "system" if message.role == "developer" else message.role
            content = []
            for part in message.parts:
                if isinstance(part, TextPart):
                    content.append({"type": "text", "text": part.text})
                    continue
                if role != "user":
                    raise RequestError(
                        400, f"An image in a message of {message.role}; only users may send them.",
                        param="messages",
                    )  # fmt: skip
                picture = open_picture(
                    part.image_url.url, f"image {len(images) + 1}", self._settings, deadline
                )
                images.append(fit_image(self._processor, picture))
                content.append({"type": "image"})
            messages.append({"role": role, "content": content})
        return messages, images
