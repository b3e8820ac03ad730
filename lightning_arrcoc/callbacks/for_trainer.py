"""Callbacks that say plainly where they do not belong."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, wraps
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException

HOOKS = frozenset(
    name for name in vars(pl.Callback) if name.startswith("on_") or name in ("setup", "teardown")
)
Hook = Callable[..., Any]
ASKING = "asks_who_calls"


def asking(hook: Hook) -> Hook:
    """A hook that refuses whoever calls it and is no Trainer of Lightning's."""

    @wraps(hook)
    def asked(self: pl.Callback, *args: Any, **kwargs: Any) -> Any:
        trainer = args[0] if args else kwargs.get("trainer")
        if not isinstance(trainer, pl.Trainer):
            raise MisconfigurationException(_refusal(type(self).__name__, trainer))
        return hook(self, *args, **kwargs)

    vars(asked)[ASKING] = True
    return asked


class ForTrainer(pl.Callback):
    """A callback of `lightning.pytorch.Trainer` and of nobody else.

    Others call it all the same: `Fabric` whatever hook its user names, with his arguments, and the
    Trainer of the package `pytorch_lightning`, whose classes are others though they bear the same
    names, so that strategies and checkpoints would not be known again. So every hook of a subclass
    asks who calls.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in HOOKS:
            hook = getattr(cls, name)
            if not hasattr(hook, ASKING):
                setattr(cls, name, asking(hook))

    @cached_property
    def state_key(self) -> str:
        """Where a checkpoint keeps the state; made once, as Lightning asks before every hook."""
        settings = self.identity()
        # Lightning's helper for exactly this, private by name, as its own callbacks use it.
        return self._generate_state_key(**settings) if settings else super().state_key

    def identity(self) -> dict[str, Any]:
        """Settings by which two of a kind are told apart in a checkpoint."""
        return {}

    @asking
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)


def _refusal(name: str, caller: object) -> str:
    if type(caller).__module__.partition(".")[0] == "pytorch_lightning":
        return (
            f"{name} works with lightning.pytorch.Trainer, but this is that of pytorch_lightning, "
            "another package with classes of its own. Write `import lightning.pytorch as pl` for "
            "`import pytorch_lightning as pl`, everywhere in the project."
        )
    given = "no Trainer" if caller is None else f"a {type(caller).__name__}"
    return (
        f"{name} works with lightning.pytorch.Trainer, but its hook was called with {given}. "
        "Fabric's callbacks are plain objects with methods of your own; train with a Trainer, or "
        "leave this one out."
    )
