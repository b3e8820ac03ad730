"""Several checkpoints on one backbone, without several backbones in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lightning_arrcoc.compare.answering import Asked, answer, ask
from lightning_arrcoc.compare.blueprint import Builder
from lightning_arrcoc.compare.contestants import BUILT_IN, Contestant, reallocate
from lightning_arrcoc.compare.errors import MissingCheckpointError
from lightning_arrcoc.compare.reading import Description, Registered, describe, read, stamp_now
from lightning_arrcoc.compare.registry import Registry
from lightning_arrcoc.compare.store import WeightStore
from lightning_arrcoc.compare.swapping import Swapper
from lightning_arrcoc.compare.turns import Stop, line_of
from lightning_arrcoc.memory.peaks import Peaks, peaks_of
from lightning_arrcoc.memory.readings import MIB, HighWater
from lightning_arrcoc.relevance import Allocation
from lightning_arrcoc.relevance.allocation import check_budget
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.identity import backbone_identity
from lightning_arrcoc.vlm.lora import has_lora


class CheckpointComparator:
    """Lets checkpoints answer the same question, side by side, with one backbone in memory.

    Of a checkpoint only ARR-COC's weights and those of adapters are kept, on the CPU, the last used
    ones of them; each is verified when it is read, and read anew when its file has changed. Whoever
    uses the model has it alone: all who share a device wait in one line, in the order in which they
    came. Every method may be called from any thread.

    Args:
        backbone: "tiny", a folder, a hub id, or a model that is loaded, without adapters. A loaded
            one has its own ARR-COC back whenever nobody uses it.
        max_loaded: checkpoints whose weights stay on the CPU, 1 or more.
        max_cache_mb: MiB that they may take together.
        device: where to put the backbone; None: a loaded one stays, another one goes to the first
            GPU, or stays on the CPU where there is none.
        max_waiting: how many may wait in the line when a comparison begins.
        timeout_s: longest wait for a turn.
        max_new_tokens: longest answer.
        **options: of `ArrCocQwen3VL.from_pretrained`, for a backbone that is not loaded yet:
            `select`, `budget`, `dtype`, `max_pixels`.

    Raises:
        ValueError: a number that cannot be one, a model with adapters or without a processor, or
            options for a loaded one.
    """

    def __init__(
        self,
        backbone: str | Path | ArrCocQwen3VL,
        max_loaded: int = 2,
        max_cache_mb: float = 2000,
        *,
        device: str | torch.device | None = None,
        max_waiting: int = 16,
        timeout_s: float = 120.0,
        max_new_tokens: int = 64,
        **options: Any,
    ) -> None:
        if max_loaded < 1 or max_cache_mb <= 0 or max_waiting < 0 or timeout_s <= 0:
            raise ValueError(
                f"max_loaded={max_loaded}, max_cache_mb={max_cache_mb}, timeout_s={timeout_s}, "
                f"max_waiting={max_waiting}; expected max_loaded >= 1, max_waiting >= 0, and the "
                "others above 0."
            )
        model = _loaded(backbone, device, options)
        if has_lora(model.backbone) or model.processor is None:
            raise ValueError(
                "The model has adapters, or no processor to encode questions with. Load it with "
                "from_pretrained, without lora: adapters come from the checkpoints."
            )
        self._model = model.eval()
        self._identity = backbone_identity(model.backbone)
        self._swapper = Swapper(model)
        self._store = WeightStore(max_loaded, round(max_cache_mb * MIB))
        self._registry = Registry()
        self._line = line_of(self.device)
        on_cpu = self.device.type == "cpu"
        self._peaks = Peaks(HighWater()) if on_cpu else peaks_of(self.device)
        self.max_waiting, self.timeout_s = max_waiting, timeout_s
        self.max_new_tokens = max_new_tokens

    # ------------------------------------------------------------------------------ checkpoints

    def register(self, name: str, path: str | Path, *, arr_coc: Builder | None = None) -> None:
        """Make a checkpoint known; it is read when it is asked for.

        Args:
            name: to ask for it by.
            path: a file that AtomicCheckpoint saved.
            arr_coc: builds its small network from the width of a question's embeddings; None: one
                of our own parts, as the checkpoint tells.

        Raises:
            MissingCheckpointError: there is no such file.
            ValueError: a bad name, or one that is taken by another file.
        """
        self._registry.add(name, path, arr_coc)

    def register_folder(self, folder: str | Path) -> list[str]:
        """Make every checkpoint below a folder known by its path there, without ``.ckpt``.

        To be called again when the folder has changed: what is known stays known.

        Returns:
            Their names, in order.

        Raises:
            MissingCheckpointError: there is no such folder.
            ValueError: a name is taken by a file elsewhere.
        """
        return self._registry.add_folder(folder)

    @property
    def names(self) -> list[str]:
        """Who may be asked: built-in contestants, then checkpoints."""
        return self._registry.names

    def describe(self, name: str) -> Description:
        """Verify a checkpoint and tell what it is; its weights are not read into memory.

        Raises:
            CompareError: as for `use`, but for the line.
        """
        return describe(self._registry[name], self._identity)

    # ------------------------------------------------------------------------------------ using

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        device: torch.device = self._model.backbone.device
        return device

    @property
    def waiting(self) -> int:
        """How many wait for the device."""
        return self._line.waiting

    @property
    def cached(self) -> tuple[list[str], int]:
        """Names of the checkpoints whose weights are on the CPU, and their bytes together."""
        return self._store.names, self._store.bytes

    @contextmanager
    def use(self, name: str, stop: Stop | None = None) -> Iterator[ArrCocQwen3VL]:
        """The model with a checkpoint's weights, for nobody else until the block ends.

        Then, and after an exception as well, it is what it was, bit for bit.

        Args:
            name: of a checkpoint.
            stop: asked while waiting; True ends that.

        Raises:
            UnknownCheckpointError: there is no such name.
            LineFullError, LineTimeoutError, StoppedError: there was no turn.
            MissingCheckpointError: its file is gone.
            UnsoundCheckpointError: it is damaged.
            OtherBackboneError: it was trained on another backbone.
            SwapError: its weights do not fit.
            RuntimeError: this thread is within such a block already.
        """
        entry = self._registry[name]
        with self._line.turn(self.timeout_s, self.max_waiting, stop), self._swapped(entry):
            yield self._model

    @contextmanager
    def _swapped(self, entry: Registered) -> Iterator[None]:
        """Within a turn."""
        try:
            stamp = stamp_now(entry)
        except MissingCheckpointError:
            self._store.drop(entry.name)
            raise
        kept = self._store.get(entry.name, stamp)
        weights = kept or read(entry, self._identity, self._store.make_room)
        with self._swapper.swapped(entry.name, weights):
            if kept is None:  # only what fits
                self._store.put(entry.name, weights)
            del kept, weights
            yield

    # -------------------------------------------------------------------------------- comparing

    def compare(
        self,
        image: Image.Image,
        question: str,
        names: Sequence[str],
        budget: int | float | None = None,
        *,
        stop: Stop | None = None,
    ) -> list[Contestant]:
        """Ask each about an image, all with equally many tokens.

        Args:
            image: what to look at.
            question: what to ask.
            names: of checkpoints and built-in contestants: "full", "downsampled", "random".
            budget: tokens as an int, or a share as a float in (0, 1]; None: the model's own.
            stop: asked again and again, while waiting and after every token; True ends it.

        Returns:
            One for each name, in their order.

        Raises:
            TypeError: `image` is no picture of PIL.
            ValueError: a bad budget or question.
            CompareError: as for `use`; StoppedError also between two tokens.
        """
        return list(self.compare_each(image, question, names, budget, stop=stop))

    def compare_each(
        self,
        image: Image.Image,
        question: str,
        names: Sequence[str],
        budget: int | float | None = None,
        *,
        stop: Stop | None = None,
    ) -> Iterator[Contestant]:
        """As `compare`, each as soon as it has answered; nothing is held between two of them."""
        if not isinstance(image, Image.Image):
            raise TypeError(f"image is of type {type(image).__name__}; expected a picture of PIL.")
        budget = check_budget(self._model.budget if budget is None else budget)
        entries = [None if name in BUILT_IN else self._registry[name] for name in names]
        return self._answers(image, question, names, entries, budget, stop)

    def _answers(
        self,
        image: Image.Image,
        question: str,
        names: Sequence[str],
        entries: Sequence[Registered | None],
        budget: int | float,
        stop: Stop | None,
    ) -> Iterator[Contestant]:
        asked: Asked | None = None
        for name, entry in zip(names, entries, strict=True):
            # Who has begun is not turned away in the middle.
            most = self.max_waiting if asked is None else None
            with self._line.turn(self.timeout_s, most, stop):
                asked = asked or ask(self._model, image, question, budget, self.max_new_tokens)
                began = time.perf_counter()
                with nullcontext() if entry is None else self._swapped(entry):
                    swap_s = time.perf_counter() - began
                    found = answer(self._model, name, asked, self._peaks, stop)
            yield found._replace(swap_s=swap_s)

    def reallocate(self, contestant: Contestant, budget: int | float) -> Allocation:
        """As `contestants.reallocate`: for a slider, without a turn."""
        return reallocate(contestant, budget)


def _loaded(
    backbone: str | Path | ArrCocQwen3VL,
    device: str | torch.device | None,
    options: dict[str, Any],
) -> ArrCocQwen3VL:
    """The model itself, or one made of what is named."""
    if isinstance(backbone, ArrCocQwen3VL):
        if options:
            raise ValueError(f"{', '.join(options)}: a loaded model has its own; leave them out.")
        return backbone if device is None else backbone.to(device)
    if "lora" in options or "arr_coc" in options:
        raise ValueError("Adapters and ARR-COC come from the checkpoints; leave them out.")
    model = ArrCocQwen3VL.from_pretrained(str(backbone), **options)
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(usual if device is None else device)
