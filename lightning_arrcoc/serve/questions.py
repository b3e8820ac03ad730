"""What a request may say: OpenAI's fields that mean something here, and `arr_coc`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lightning_arrcoc.relevance.allocation import check_budget
from lightning_arrcoc.serve.errors import RequestError

# They change nothing of an answer.
HINTS = (
    "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention",
    "reasoning_effort", "safety_identifier", "service_tier", "store", "user", "verbosity",
)  # fmt: skip
# These would, and only as they are by default they are what happens here anyway.
ONLY: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "web_search_options": (None,),
}
TYPES = ("str", "int", "float")
MOST_MESSAGES, MOST_PARTS, MOST_STOPS = 256, 64, 4  # chosen by us; of stops OpenAI takes four
MOST_VALUES = 20_000  # in all: pydantic makes an error of each that is wrong, and takes its time


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Strict):
    """Words."""

    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    """Where an image is; `detail` is decided by the budget here."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Strict):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl

    @field_validator("image_url", mode="before")
    @classmethod
    def _by_itself(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Content = str | Annotated[list[Part], Field(min_length=1, max_length=MOST_PARTS)]


class ChatMessage(_Strict):
    """Something that was said."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = None
    refusal: None = None

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)]
        return self.content


class ArrCocOptions(_Strict):
    """What OpenAI has no words for.

    Attributes:
        budget: visual tokens as a whole number, or a share of them above 0 and up to 1.0.
        explain: tell what was kept, and why.
    """

    budget: int | float | None = None
    explain: bool = False

    @field_validator("budget")
    @classmethod
    def _can_be_one(cls, value: int | float | None) -> int | float | None:
        return None if value is None else check_budget(value)


class StreamOptions(_Strict):
    """How to stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(_Strict):
    """A request for a completion."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    arr_coc: ArrCocOptions = ArrCocOptions()

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value is not None and not all([value] if isinstance(value, str) else value):
            raise ValueError("an empty text would stop every answer")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def read_question(body: bytes) -> ChatRequest:
    """A request from what was sent.

    Raises:
        RequestError: it is no JSON, a field is unknown, of another type or out of its range, or
            asks for what is not done here.
    """
    try:
        found = orjson.loads(body)  # refuses NaN, and what is nested too deeply
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"The body is no JSON: {error}.", code="invalid_json") from error
    if not isinstance(found, dict):
        raise RequestError(400, f"The body is a {type(found).__name__}; expected an object.")
    for field, allowed in ONLY.items():
        if field in found and not any(_same(found[field], value) for value in allowed):
            raise RequestError(
                400,
                f"{field} is not supported here; leave it out.",
                param=field,
                code="unsupported_parameter",
            )
    known = {key: value for key, value in found.items() if key not in (*ONLY, *HINTS)}
    if _has_more_than(MOST_VALUES, known):
        raise RequestError(400, f"The body has more than {MOST_VALUES} values.")
    try:
        return ChatRequest.model_validate(known)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # Of a choice of types pydantic names the type as well, which is no part of the request.
        parts = [str(part) for part in first["loc"]]
        where = ".".join(part for part in parts if part not in TYPES and "[" not in part)
        kind = "unknown_parameter" if first["type"] == "extra_forbidden" else "invalid_value"
        raise RequestError(400, f"{where}: {first['msg']}.", param=where, code=kind) from error


def _has_more_than(most: int, value: Any) -> bool:
    """Whether there are more values in lists and objects, however deep; looks no further then."""
    waiting, seen = [value], 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list):
            seen += len(one)
            if seen > most:
                return True
            waiting.extend(one.values() if isinstance(one, dict) else one)
    return False


def _same(value: Any, allowed: Any) -> bool:
    return (type(value) is not bool is not type(allowed) and value == allowed) or value is allowed
