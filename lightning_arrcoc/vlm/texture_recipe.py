"""How textures come about, from a picture to the cells: the processor's part and the measuring."""

from __future__ import annotations

import hashlib
import json

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from lightning_arrcoc.relevance import CELL_PX
from lightning_arrcoc.vlm.chat import ChatProcessor
from lightning_arrcoc.vlm.patches import PixelScale, fold_patches

# Of the image processor: what changes the pixels that are measured. Its limits on the size are
# none of them: they change the grid alone.
DECISIVE = (
    "do_convert_rgb", "do_resize", "resample", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std", "patch_size", "temporal_patch_size", "merge_size",
)  # fmt: skip


class TextureRecipe:
    """Measures pictures away from the model just as the model would, for a cache.

    What it gives are the textures of a first look: channels that tell of a frame or turn before
    are zero, as they are for every picture that comes without `previous`.

    Args:
        processor: the model's own; resizes pictures and cuts them into patches.
        texture: the model's `arr_coc.texture`, which says by `fingerprint` what it measures.

    Attributes:
        fingerprint: sha256 hex of all that textures depend on, but for the picture and its grid.

    Raises:
        ValueError: the textures have no fingerprint, or cells that are not 32 px wide.
    """

    def __init__(self, processor: ChatProcessor, texture: nn.Module) -> None:
        measured = getattr(texture, "fingerprint", None)
        if not isinstance(measured, str):
            raise ValueError(
                f"{type(texture).__name__} has no `fingerprint`, so a cache could not tell its "
                "textures from others. Give it one that changes with what it measures, or leave "
                "data.texture_cache out."
            )
        images = processor.image_processor
        if images.patch_size * images.merge_size != CELL_PX:
            raise ValueError(
                f"The processor's tokens cover {images.patch_size * images.merge_size} px; "
                f"textures are measured in cells of {CELL_PX} px, as Qwen3-VL has them."
            )
        self.processor = processor
        self.texture = texture
        self.scale = PixelScale(torch.tensor(images.image_mean), torch.tensor(images.image_std))
        pixels = {name: getattr(images, name) for name in DECISIVE}
        made_of = json.dumps({"texture": measured, "pixels": pixels})
        self.fingerprint = hashlib.sha256(made_of.encode()).hexdigest()

    def grid_of(self, image: Image.Image) -> tuple[int, int]:
        """Rows and columns of cells that the processor will make of a picture.

        Raises:
            ValueError: it is more than 200 times as long as wide.
        """
        size = self.processor.image_processor.size
        height, width = smart_resize(
            image.height,
            image.width,
            factor=CELL_PX,
            min_pixels=size["shortest_edge"],
            max_pixels=size["longest_edge"],
        )
        return height // CELL_PX, width // CELL_PX

    def cells(self, grid_thw: Tensor) -> tuple[int, int]:
        """The same from a row of ``image_grid_thw``, which counts patches."""
        _, rows, columns = grid_thw.tolist()
        return rows // self.processor.merge_size, columns // self.processor.merge_size

    def measure(self, image: Image.Image) -> Tensor:
        """Textures of a picture ``(C, H, W)``, fp16.

        Raises:
            ValueError: the processor made another grid than `grid_of` foretold.
        """
        encoded = self.processor.image_processor(images=[image], return_tensors="pt")
        textures_CHW = self.measure_patches(encoded["pixel_values"], encoded["image_grid_thw"][0])
        found, expected = tuple(textures_CHW.shape[1:]), self.grid_of(image)
        if found != expected:
            raise ValueError(
                f"The processor made {found} cells of a picture of {image.width}x{image.height} "
                f"px; expected {expected}, as Qwen3-VL's own would. Leave data.texture_cache out."
            )
        return textures_CHW

    def measure_patches(self, patches: Tensor, grid_thw: Tensor) -> Tensor:
        """The same from what the processor made of one picture.

        Args:
            patches: its rows of ``pixel_values``.
            grid_thw: its row of ``image_grid_thw``.
        """
        _, rows, columns = grid_thw.tolist()
        merge = self.processor.merge_size
        images_I3hw = fold_patches(patches, (rows, columns), merge, self.scale)
        textures_CHW: Tensor = self.texture(images_I3hw)[0]
        return textures_CHW.half()
