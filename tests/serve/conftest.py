"""A processor, chats and pictures that many tests of the server share."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_arrcoc.vlm.chat import ChatProcessor
from lightning_arrcoc.vlm.loading import TINY_FOLDER


@pytest.fixture(scope="session")
def processor() -> ChatProcessor:
    return ChatProcessor.from_pretrained(TINY_FOLDER)


def encoded(image: Image.Image, kind: str = "png") -> str:
    """A data URL."""
    file = BytesIO()
    image.save(file, kind)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.fixture(scope="session")
def picture_url() -> str:
    drawn = np.random.default_rng(0).integers(0, 255, (128, 160, 3), dtype=np.uint8)
    return encoded(Image.fromarray(drawn))


@pytest.fixture
def chat(picture_url: str) -> Any:
    """Makes the fields of a good request about a picture, with others beside or instead."""

    def made(question: str = "Which digit is red?", **fields: Any) -> dict[str, Any]:
        content = [
            {"type": "image_url", "image_url": {"url": picture_url}},
            {"type": "text", "text": question},
        ]
        return {"messages": [{"role": "user", "content": content}], "max_tokens": 3, **fields}

    return made


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")
