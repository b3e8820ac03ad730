"""format=hf: a folder in Hugging Face's style."""

from __future__ import annotations

from pathlib import Path

from lightning_arrcoc.export.measured import measured
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.saved_folder import write_folder


def export_hf(
    model: ArrCocQwen3VL, folder: Path, *, checkpoint: Path, merge_lora: bool
) -> list[str]:
    """Fill a folder, and say what is in it.

    Raises:
        ValueError: as for `ArrCocQwen3VL.save_pretrained`.
    """
    numbers = measured(checkpoint) if checkpoint.is_file() else None
    write_folder(model, folder, merge_lora=merge_lora, measured=numbers)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    own = merge_lora or model.owns_backbone
    kept = "the backbone with adapters merged in" if own else "its backbone by name alone"
    return [
        f"{size / 2**20:.1f} MiB: ARR-COC, processor, model card, and {kept}.",
        "The card tells what the run's files say was measured."
        if numbers
        else "No results or log lie beside the checkpoint, so the card tells no number.",
    ]
