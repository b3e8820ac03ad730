"""Out of a checkpoint into a form that others can use: one form a file."""

from __future__ import annotations

FORMATS = {
    "hf": "a folder in Hugging Face's style, for ArrCocQwen3VL.from_pretrained",
    "onnx": "the selector for ONNX runtimes, checked in onnxruntime on 20 sizes",
    "torch_export": "the selector as a torch.export program, and as TorchScript (legacy)",
    "int8": "the selector in int8, and the language model's weights in 8 or 4 bits, measured",
}
