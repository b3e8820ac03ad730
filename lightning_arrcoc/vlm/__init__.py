"""ARR-COC inside Qwen3-VL. The only folder that imports transformers."""

from lightning_arrcoc.vlm.chat import ChatProcessor, Conversation
from lightning_arrcoc.vlm.outputs import ArrCocGeneration, ArrCocOutput
from lightning_arrcoc.vlm.qwen3_vl import ArrCocQwen3VL

__all__ = ["ArrCocGeneration", "ArrCocOutput", "ArrCocQwen3VL", "ChatProcessor", "Conversation"]
