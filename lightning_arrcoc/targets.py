"""What a configuration may call, and with what: an allowlist, parameters and their types."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from inspect import isclass, isfunction
from pkgutil import resolve_name
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from lightning_arrcoc.signatures import Signature, annotated_type, read_signature

# A name that ends in a dot allows what lies below it, any other one itself alone.
ALLOWED = (
    "lightning_arrcoc.ArrCocModule",
    "lightning_arrcoc.ArrCocQwen3VL.from_pretrained",
    "lightning_arrcoc.VqaDataModule",
    "lightning_arrcoc.callbacks.",
    "lightning_arrcoc.contest.Contest",
    "lightning_arrcoc.data.",
    "lightning_arrcoc.loggers.",
    "lightning_arrcoc.objectives.",
    "lightning_arrcoc.plugins.",
    "lightning_arrcoc.profilers.",
    "lightning_arrcoc.relevance.",
    "lightning_arrcoc.serve.settings.ServerSettings",
    "lightning_arrcoc.strategies.",
    "lightning_arrcoc.vlm.lora.add_lora",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
    "lightning.pytorch.plugins.",
    "lightning.pytorch.profilers.",
    "lightning.pytorch.strategies.",
)
# Where those single names are defined; what is called must come from there or from a folder above.
HOMES = (
    "lightning_arrcoc.contest",
    "lightning_arrcoc.module",
    "lightning_arrcoc.serve.settings",
    "lightning_arrcoc.vlm.lora",
    "lightning_arrcoc.vlm.pretrained",
    "lightning.pytorch.trainer.trainer",
    "lightning.fabric.plugins",  # re-exported by lightning.pytorch.plugins
)
ALLOW_VARIABLE = "LIGHTNING_ARRCOC_ALLOW"  # further packages, separated by commas
HYDRA_WORDS = ("_target_", "_partial_", "_recursive_", "_convert_")


def check_config(config: DictConfig) -> None:
    """Check every constructor call of a composed configuration; nothing is imported or made.

    Raises:
        ValueError: a target outside the allowlist, a parameter it does not have, or a value of
            another type than it wants.
    """
    for path, node in find_targets(OmegaConf.to_container(config, resolve=False)):
        signature = target_signature(str(node["_target_"]), path)
        if "_args_" in node:
            raise ValueError(f"{path}._args_ is not allowed; name the parameters.")
        for name, value in node.items():
            if signature is None or name in HYDRA_WORDS:
                continue
            if name in signature.parameters:
                wanted = annotated_type(signature.parameters[name])
                check_type(f"{path}.{name}", value, wanted)
            elif not signature.takes_any:
                raise ValueError(unknown_key(f"{path}.{name}", name, signature.parameters))


def target_signature(target: str, where: str) -> Signature | None:
    """What a `_target_` takes, if a configuration may call it; None where its source is silent.

    Raises:
        ValueError: the name, or the module it leads to, lies outside the allowlist.
    """
    if not _may_be_named(target):
        raise ValueError(_forbidden(target, where))
    signature = read_signature(target)
    if signature and not (_is_home(signature.home) and _may_be_called(target, signature.kind)):
        raise ValueError(_forbidden(target, where))
    return signature


def build(node: DictConfig | ListConfig, **extra: Any) -> Any:
    """`hydra.utils.instantiate` for what the allowlist permits.

    Both the name and the home of what it leads to must lie inside: a path through a module's own
    imports (``lightning_arrcoc.data.digits.np.load``) leads out of it.

    Raises:
        ValueError: a target lies outside the allowlist or does not exist.
        Exception: whatever the constructor itself raises.
    """
    for path, part in find_targets(OmegaConf.to_container(node, resolve=True)):
        target = str(part["_target_"])
        target_signature(target, path)
        try:
            found = resolve_name(target)
        except Exception as error:
            raise ValueError(f"{path}._target_={target} is not there: {error}") from error
        kind = "class" if isclass(found) else "function" if isfunction(found) else "member"
        if "." in str(getattr(found, "__qualname__", "")) and kind == "function":
            kind = "member"
        at_home = callable(found) and _is_home(str(getattr(found, "__module__", "")))
        if not at_home or not _may_be_called(target, kind):
            raise ValueError(_forbidden(target, path))
    try:
        return instantiate(node, **extra)
    except InstantiationException as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, TypeError) and "argument" in str(cause):  # missing or unexpected
            raise ValueError(str(cause)) from error
        raise cause from error


def find_targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node of a plain configuration that calls something, with where it stands."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from find_targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from find_targets(value, f"{path}[{place}]")


def check_type(where: str, value: Any, expected: Any) -> None:
    """Whether a plain value can be what a parameter is annotated with.

    Raises:
        ValueError: it cannot.
    """
    if "_target_" in str(value) or "${" in str(value):  # made by a call, or not known yet
        return
    try:
        adapter = TypeAdapter(expected, config=ConfigDict(arbitrary_types_allowed=True))
        understood = adapter.validate_python(value)
        found = "" if _as_it_was(value, understood) else f"not {understood!r}"
    except ValidationError as error:
        found = error.errors()[0]["msg"]
    except PydanticUserError:
        return  # a type that pydantic cannot describe: the constructor judges
    if found:
        wanted = expected.__name__ if type(expected) is type else str(expected)
        wanted = wanted.replace("typing.", "").replace("collections.abc.", "")
        raise ValueError(f"{where}={value!r}; expected {wanted} ({found}).")


def _as_it_was(value: Any, understood: Any) -> bool:
    """Whether a value has the type it was understood as: the constructor gets it as it is.

    The word "no" is understood as false, and is true to whoever asks `if`.
    """
    if isinstance(value, list) and isinstance(understood, list | tuple):
        return all(map(_as_it_was, value, understood))
    if isinstance(understood, bool | int | float):
        return type(value) is type(understood) or (type(value), type(understood)) == (int, float)
    return True


def unknown_key(where: str, name: str, known: Iterable[object]) -> str:
    """Found, expected, next step."""
    names = sorted(str(key) for key in known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5) or [
        key for key in names if key.casefold() == name.casefold()
    ]
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(names)}."
    return f"Unknown key {where!r}. {hint}"


def _extra_packages() -> list[str]:
    names = (name.strip(" .") for name in os.environ.get(ALLOW_VARIABLE, "").split(","))
    return [name for name in names if name]


def _may_be_named(target: str) -> bool:
    allowed = (*ALLOWED, *(f"{package}." for package in _extra_packages()))
    return any(
        target.startswith(name) if name.endswith(".") else target == name for name in allowed
    )


def _may_be_called(target: str, kind: str) -> bool:
    """A folder of the allowlist means its classes and, in our own, its functions.

    A method reached by its name (``...CheckpointIO.remove_checkpoint``) does what it likes.
    """
    if target in ALLOWED or any(target.startswith(f"{name}.") for name in _extra_packages()):
        return True
    return kind == "class" or (kind == "function" and target.startswith("lightning_arrcoc."))


def _is_home(module: str) -> bool:
    folders = [name.rstrip(".") for name in ALLOWED if name.endswith(".")]
    homes = (*folders, *HOMES, *_extra_packages())
    return any(module == home or module.startswith(f"{home}.") for home in homes)


def _forbidden(target: str, where: str) -> str:
    allowed = (*ALLOWED, *(f"{package}." for package in _extra_packages()))
    return (
        f"{where}._target_={target} is not allowed; expected one of {', '.join(allowed)} (a dot at "
        f"the end: what lies below). For a package of your own set {ALLOW_VARIABLE}=its_name."
    )
