"""ARR-COC inside Qwen3-VL. The only folder that imports transformers."""

from lightning_arrcoc.vlm.chat import ChatProcessor, Conversation
from lightning_arrcoc.vlm.qwen3_vl import ArrCocGeneration, ArrCocOutput, ArrCocQwen3VL

__all__ = ["ArrCocGeneration", "ArrCocOutput", "ArrCocQwen3VL", "ChatProcessor", "Conversation"]
