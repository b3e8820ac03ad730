"""What a data module takes over from the model that its Trainer trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_arrcoc.data.collate import Encode

if TYPE_CHECKING:
    from lightning_arrcoc.data.missing_textures import Recipe


def processor_of(trainer: pl.Trainer | None) -> Encode:
    """The model's own processor.

    Raises:
        MisconfigurationException: it has none.
    """
    module = trainer.lightning_module if trainer else None
    processor: Encode | None = getattr(module, "processor", None)
    if processor is None:
        raise MisconfigurationException(
            "VqaDataModule has no processor, and the LightningModule offers none. Pass "
            "VqaDataModule(processor=...) or give the module a `processor` attribute."
        )
    return processor


def recipe_of(trainer: pl.Trainer | None, processor: Encode) -> Recipe:
    """How the model's textures come about from what a processor makes of pictures.

    Raises:
        MisconfigurationException: it does not say.
        ValueError: they cannot be cached.
    """
    module: Any = trainer.lightning_module if trainer else None
    if not hasattr(module, "texture_recipe"):
        raise MisconfigurationException(
            "VqaDataModule has a texture_cache, and the LightningModule does not say how "
            "textures come about. Pass VqaDataModule(recipe=...), give the module a method "
            "`texture_recipe(processor)`, or leave texture_cache out."
        )
    recipe: Recipe = module.texture_recipe(processor)
    return recipe
