from __future__ import annotations

import pickle

import orjson
import torch
from PIL import Image

from lightning_arrcoc.relevance import Allocation
from lightning_arrcoc.serve.wire import Job, told
from lightning_arrcoc.vlm.answering import Piece, Prompt
from lightning_arrcoc.vlm.messages import Row

KEPT = Allocation(  # of 2x3 cells the upper left four as one token, and the last one by itself
    torch.tensor([[0.5, 0.5], [1.0, 2.0]]),
    torch.tensor([1, 0]),
    torch.tensor([[2]]),
    torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]),
    torch.tensor([0.7, 0.8, 0.9]),
)
PROMPT = Prompt(Row([1] * 9, [0] * 9, 6), (Image.new("RGB", (96, 64)),))
LAST = Piece("7", "stop", 1, (KEPT,))


def test_what_was_kept_is_told_in_plain_values_to_whom_asks() -> None:
    piece = told(Job(PROMPT, explain=True), LAST)
    assert piece.images == [
        {
            "width": 96, "height": 64, "grid": [2, 3], "tokens": 2, "tokens_of_all": 6,
            "kept": [{"cells": [0, 0, 2, 2], "level": 1}, {"cells": [1, 2, 2, 3], "level": 0}],
            "tensions": {"exploit": 0.7, "compress": 0.8, "focus": 0.9},
            "relevance": [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]],
        }
    ]  # fmt: skip
    assert orjson.dumps(piece.images)
    assert (told(Job(PROMPT), LAST).images, piece.visual) == (None, 2)
    assert told(Job(PROMPT, explain=True), Piece("7", None, 1)).images is None


def test_no_tensor_travels() -> None:
    assert b"torch" not in pickle.dumps(told(Job(PROMPT, explain=True), LAST))
    assert b"torch" not in pickle.dumps(Job(PROMPT))
