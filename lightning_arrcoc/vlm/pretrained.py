"""ARR-COC on a backbone: put together, loaded, saved and shared as Hugging Face's models are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from huggingface_hub import HfApi
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from lightning_arrcoc.relevance import RelevanceRealizer, build_realizer
from lightning_arrcoc.vlm.chat import ChatProcessor
from lightning_arrcoc.vlm.loading import load_backbone, locate
from lightning_arrcoc.vlm.saved_folder import restore, save_folder, saved_folder

if TYPE_CHECKING:
    from typing_extensions import Self

Select = Literal["before_vision", "after_vision"]


class Pretrained(nn.Module):
    """What a model on a backbone can do beside answering: be loaded, saved and shared.

    Attributes:
        owns_backbone: it came from a folder that holds the backbone as well; so does every folder
            that it is saved to.
    """

    owns_backbone = False

    @classmethod
    def from_pretrained(
        cls,
        backbone: str,
        *,
        select: Select | None = None,
        budget: int | float | None = None,
        arr_coc: Callable[[int], RelevanceRealizer] | None = None,
        dtype: str | torch.dtype = "auto",
        attn_implementation: str = "sdpa",
        random_weights: bool = False,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        lora: Callable[[Qwen3VLForConditionalGeneration], None] | None = None,
    ) -> Self:
        """Put a fresh ARR-COC on a backbone, or load one that was saved.

        Args:
            backbone: "tiny", a folder that holds a Qwen3-VL, or a hub id; or what
                `save_pretrained` and `push_to_hub` wrote, which names its own backbone.
            select, budget: as for the class; None takes what was saved, or the class's own.
            arr_coc: makes the small network, given the width of the token embeddings; None: the
                usual one, or the saved one.
            dtype: of the backbone's parameters; "auto" keeps what the files hold.
            attn_implementation: "sdpa", "eager" or "flash_attention_2" (no soft phase).
            random_weights: read the configuration only and draw the weights, to train or time.
            min_pixels, max_pixels: limits of a resized image; None keeps the processor's.
            lora: puts adapters into the backbone, such as `lora.add_lora`; None: there are none
                but saved ones.

        Raises:
            ImportError: transformers is too old.
            FileNotFoundError: no such backbone.
            ValueError: another architecture, a bad `select` or `budget`, or a saved folder that
                does not hold what it says.
        """
        options: dict[str, Any] = {
            "dtype": dtype, "attn_implementation": attn_implementation,
            "min_pixels": min_pixels, "max_pixels": max_pixels,
        }  # fmt: skip
        saved = saved_folder(backbone)
        if saved is None:
            return cls._assemble(
                backbone,
                processor=locate(backbone),
                select=select or "before_vision",
                budget=0.1 if budget is None else budget,
                arr_coc=arr_coc or build_realizer,
                lora=lora,
                random_weights=random_weights,
                **options,
            )
        if arr_coc is not None or lora is not None or random_weights:
            raise ValueError(
                f"{backbone!r} is a saved ARR-COC with a network, adapters and weights of its own; "
                "leave out arr_coc, lora and random_weights."
            )
        restored: Self = restore(cls._assemble, saved, select=select, budget=budget, **options)
        return restored

    @classmethod
    def _assemble(
        cls,
        backbone: str,
        *,
        processor: str | Path,
        select: Select,
        budget: int | float,
        arr_coc: Callable[[int], RelevanceRealizer],
        lora: Callable[[Qwen3VLForConditionalGeneration], None] | None,
        dtype: str | torch.dtype,
        attn_implementation: str,
        min_pixels: int | None,
        max_pixels: int | None,
        random_weights: bool = False,
    ) -> Self:
        stock = load_backbone(
            backbone,
            dtype=dtype,
            attn_implementation=attn_implementation,
            random_weights=random_weights,
        )
        chat = ChatProcessor.from_pretrained(
            processor, min_pixels=min_pixels, max_pixels=max_pixels
        )
        realizer = arr_coc(stock.config.text_config.hidden_size)
        if lora is not None:  # last, so that ARR-COC starts from the same weights with and without
            lora(stock)
        return cls(
            stock,
            realizer,
            select=select,
            budget=budget,
            image_mean=tuple(chat.image_processor.image_mean),
            image_std=tuple(chat.image_processor.image_std),
            processor=chat,
        )

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        merge_lora: bool = False,
        overwrite: bool = False,
        measured: str | None = None,
    ) -> None:
        """Write a folder that `from_pretrained` reads, whole or not at all.

        It names the backbone and does not hold it, unless adapters are merged into that now or were
        before this model was loaded.

        Args:
            folder: where to.
            merge_lora: put the adapters' effect into the backbone's own weights and save these;
                else adapters are saved as peft does.
            overwrite: replace a folder that was written so before, also the one that this model
                was loaded from.
            measured: Markdown for the model card; None: it says that nothing was measured.

        Raises:
            FileExistsError: the folder exists.
            ValueError: no processor, a quantized backbone, parts that are not ours, no adapters to
                merge, or a folder to replace that holds files which no export writes.
        """
        model: Any = self
        save_folder(model, folder, merge_lora=merge_lora, overwrite=overwrite, measured=measured)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        commit_message: str = "ARR-COC",
        merge_lora: bool = False,
        measured: str | None = None,
        api: HfApi | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes, with huggingface_hub's token, and give its address.

        Args:
            repo_id: made where there is none.
            private: of a new repository; None: as the account has it.
            api: to upload through; None makes one.
            merge_lora, measured: as for `save_pretrained`.
        """
        api = api or HfApi()
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "arr_coc"
            self.save_pretrained(folder, merge_lora=merge_lora, measured=measured)
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
        return str(address)
