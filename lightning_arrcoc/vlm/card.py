"""The model card of a saved ARR-COC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOTHING_MEASURED = (
    "No results file or log of a run lay beside the checkpoint, so no number is told here."
)


def model_card(settings: Mapping[str, Any], measured: str | None) -> str:
    """Front matter, what this is, how to load it, and what was measured.

    Args:
        settings: as the folder says of itself.
        measured: Markdown that a run's own files say; None: nothing was measured.
    """
    backbone, lora = str(settings["backbone"]), settings["lora"]
    on_hub = backbone.count("/") == 1 and not backbone.startswith("/")
    own = backbone == "."
    named = (
        "in this folder, adapters merged into it" if own else f"`{backbone}`, not in this folder"
    )
    network = settings["network"]
    rows = {
        "backbone": named,
        "select": settings["select"],
        "budget": settings["budget"],
        "texture channels": ", ".join(network["channels"]),
        "scorers": ", ".join(network["scorers"]),
        "tensions": "adaptive" if network["adaptive"] else "fixed",
        "hears the question": "no" if network["query_blind"] else "yes",
        "adapters": f"rank {lora['rank']} in `adapter/`, of peft" if lora else "none",
        "language model": f"{settings['language_model']} weights"
        if settings["language_model"]
        else "as it is",
    }
    front = ["---", "library_name: lightning-arrcoc", "pipeline_tag: image-text-to-text"]
    front += [f"base_model: {backbone}"] if on_hub else []
    table = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(
        [
            *front,
            "tags: [qwen3_vl, visual-token-reduction]",
            "---",
            "",
            "# ARR-COC on Qwen3-VL",
            "",
            "A small network that looks at an image's texture and at the question, and gives a "
            "stock Qwen3-VL only the visual tokens it needs.",
            "",
            "| part | here |",
            "|---|---|",
            *table,
            "",
            "```python",
            "from lightning_arrcoc import ArrCocQwen3VL",
            "",
            'model = ArrCocQwen3VL.from_pretrained("this folder, or its id on the hub").eval()',
            "```",
            "",
            "## Measured",
            "",
            measured or NOTHING_MEASURED,
            "",
        ]
    )
