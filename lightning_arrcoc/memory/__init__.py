"""Memory, read and kept low: plain torch, so that it serves without Lightning as well."""

from __future__ import annotations

from lightning_arrcoc.memory.freeing import free_between

__all__ = ["free_between"]
