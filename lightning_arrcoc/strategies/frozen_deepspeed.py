"""DeepSpeed's second stage for a frozen model with a small trained one; never run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException


class FrozenDeepSpeedStrategy(DeepSpeedStrategy):
    """Changes who keeps the optimizer's moments: each device a part (ZeRO, stage 2). Never run.

    Written from DeepSpeed's and Lightning's documentation; it needs GPUs and was not tried on any.
    What trains is small, so this saves little over DDP: `FrozenFSDPStrategy` deals out the frozen
    model itself. Stage 3 would do that as well, but leaves trained weights in pieces where the
    module saves them, and is refused. Checkpoints are folders without the frozen weights.

    Args:
        stage: 1 or 2.
        **kwargs: of `DeepSpeedStrategy`.

    Raises:
        MisconfigurationException: DeepSpeed is not installed, or another stage.
    """

    def __init__(self, stage: int = 2, **kwargs: Any) -> None:
        if stage not in (1, 2):
            raise MisconfigurationException(
                f"stage={stage}; expected 1 or 2. To deal the frozen backbone out take "
                "trainer=fsdp2."
            )
        if find_spec("deepspeed") is None:
            raise MisconfigurationException(
                "DeepSpeed is not installed. Run: pip install deepspeed, or take trainer=ddp or "
                "trainer=fsdp2, which need nothing more."
            )
        super().__init__(stage=stage, exclude_frozen_parameters=True, **kwargs)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The frozen weights are not in it."""
        module = self.lightning_module
        assert module is not None
        module.strict_loading = False
        found: dict[str, Any] = super().load_checkpoint(checkpoint_path, weights_only)
        return found
