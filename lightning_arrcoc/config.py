"""Configuration that fails in a second: unknown keys, wrong types, targets out of bounds."""

from __future__ import annotations

import difflib
import inspect
import os
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from lightning_arrcoc.signatures import Signature, annotated_type, read_signature

ALLOWED_TARGETS = (
    "lightning_arrcoc.",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
    "lightning.pytorch.plugins.",
    "lightning.pytorch.profilers.",
    "lightning.pytorch.strategies.",
)
ALLOW_VARIABLE = "LIGHTNING_ARRCOC_ALLOW"  # further prefixes, separated by commas
# Keys that no constructor takes, because the command itself reads them.
OPTIONS: Mapping[str, Any] = {
    "seed": int,
    "debug": bool,
    "ckpt": str | None,
    "image": str | None,
    "question": str | None,
    "picture_samples": int,
}


def config_dir() -> Path:
    """The shipped configurations: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def check_overrides(command: str, arguments: list[str]) -> list[str]:
    """Compose once ahead of Hydra, to say in one line what is wrong.

    Args:
        command: name of the top-level configuration.
        arguments: what stands behind it on the command line; flags pass through.

    Returns:
        The same arguments; a key that the configuration leaves out but the constructor it belongs
        to takes, such as ``trainer.limit_val_batches=2``, gets the ``+`` that Hydra wants.

    Raises:
        ValueError: an unknown key, group or option, a value of the wrong type, or a forbidden
            target.
    """
    if any(flag in arguments for flag in ("--help", "--hydra-help", "--version", "-h")):
        return arguments
    words = [word for word in arguments if "=" in word or word.startswith("~")]
    try:
        overrides = OverridesParser.create().parse_overrides(words)
        with _hydra(arguments):
            chosen = [_first_choice(o) for o in overrides if _is_group(o)]
            base = compose(command, chosen)
            completed = {o.input_line or "": _complete(o, base) for o in overrides}
            config = compose(command, [_first_choice(o, completed) for o in overrides])
            check_config(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_one_line(error)) from error
    return [completed.get(word, word) for word in arguments]


def check_config(config: DictConfig) -> None:
    """Check every constructor call of a composed configuration; nothing is imported or made.

    Raises:
        ValueError: a target outside the allowlist, a parameter it does not have, or a value of
            another type than it wants.
    """
    plain: Any = OmegaConf.to_container(config, resolve=False)
    for key, expected in OPTIONS.items():
        if key in plain:
            _check_type(key, plain[key], expected)
    for path, node in _targets(plain):
        signature = target_signature(str(node["_target_"]), path)
        if signature is None:
            continue
        for name, value in node.items():
            if name in ("_target_", "_partial_", "_recursive_", "_convert_"):
                continue
            if name in signature.parameters:
                wanted = annotated_type(signature.parameters[name])
                _check_type(f"{path}.{name}", value, wanted)
            elif not signature.takes_any:
                raise ValueError(unknown_key(f"{path}.{name}", name, signature.parameters))


def target_signature(target: str, where: str) -> Signature | None:
    """What a `_target_` takes, if a configuration may call it; None where its source is silent.

    Raises:
        ValueError: the name, or the module it leads to, lies outside the allowlist.
    """
    signature = read_signature(target) if target.startswith(_allowed()) else None
    if not target.startswith(_allowed()) or (signature and not _at_home(signature.home)):
        raise ValueError(_forbidden(target, where))
    return signature


def build(node: DictConfig | ListConfig, **extra: Any) -> Any:
    """`hydra.utils.instantiate` for what the allowlist permits.

    Both the name and the home of what it leads to must lie inside: a path through a module's own
    imports (``lightning_arrcoc.cli.os.system``) leads out of it.

    Raises:
        ValueError: a target lies outside the allowlist or does not exist.
    """
    for path, part in _targets(OmegaConf.to_container(node, resolve=True)):
        target = str(part["_target_"])
        target_signature(target, path)
        try:
            found = get_object(target)
        except Exception as error:
            raise ValueError(
                f"{path}._target_={target} is not there: {_one_line(error)}"
            ) from error
        if not callable(found) or not _at_home(str(getattr(found, "__module__", ""))):
            raise ValueError(_forbidden(target, path))
    return instantiate(node, **extra)


def _allowed() -> tuple[str, ...]:
    extra = os.environ.get(ALLOW_VARIABLE, "").split(",")
    return (*ALLOWED_TARGETS, *(f"{name.strip().rstrip('.')}." for name in extra if name.strip()))


def _at_home(module: str) -> bool:
    return module.split(".")[0] in {prefix.split(".")[0] for prefix in _allowed()}


def _forbidden(target: str, where: str) -> str:
    return (
        f"{where}._target_={target} is not allowed; expected a name that begins with "
        f"{', '.join(_allowed())}. For a package of your own set {ALLOW_VARIABLE}=its_name."
    )


def unknown_key(where: str, name: str, known: typing.Iterable[object]) -> str:
    """Found, expected, next step."""
    names = sorted(str(key) for key in known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(names)}."
    return f"Unknown key {where!r}. {hint}"


# ------------------------------------------------------------------------------ overrides


class _hydra:  # noqa: N801
    """Hydra's compose API on the shipped configurations and on --config-dir."""

    def __init__(self, arguments: list[str]) -> None:
        self.extra = _option(arguments, ("--config-dir", "-cd"))

    def __enter__(self) -> None:
        GlobalHydra.instance().clear()
        self.context = initialize_config_dir(str(config_dir()), version_base="1.3")
        self.context.__enter__()
        if self.extra:
            search_path = GlobalHydra.instance().config_loader().get_search_path()
            search_path.append("command line", f"file://{Path(self.extra).absolute()}")

    def __exit__(self, *error: object) -> None:
        self.context.__exit__(*error)
        GlobalHydra.instance().clear()


def _option(arguments: list[str], names: tuple[str, ...]) -> str | None:
    for place, word in enumerate(arguments):
        name, _, value = word.partition("=")
        if name in names:
            return value or (arguments[place + 1] if place + 1 < len(arguments) else None)
    return None


def _is_group(override: Override) -> bool:
    key = override.key_or_group
    return "." not in key and (config_dir() / key).is_dir()


def _first_choice(override: Override, completed: Mapping[str, str] | None = None) -> str:
    """The override itself, or the first value of a sweep, as `compose` takes no sweeps."""
    line = (completed or {}).get(override.input_line or "", override.input_line or "")
    if not override.is_sweep_override():
        return line
    key = line.partition("=")[0]
    value = override.value()
    if isinstance(value, Sweep):
        first = next(iter(override.sweep_string_iterator()), "")
        return f"{key}={first}"
    return line


def _complete(override: Override, base: DictConfig) -> str:
    """The override as Hydra takes it; a key that cannot exist is an error."""
    line, key = override.input_line or "", override.key_or_group
    if _is_group(override) or key.startswith("hydra.") or override.is_add() or override.is_delete():
        return line
    if OmegaConf.select(base, key, default=_MISSING) is not _MISSING:
        return line
    parent: Any = base
    parts = key.split(".")
    for depth, part in enumerate(parts):
        known = _known_keys(parent)
        last = depth == len(parts) - 1
        if part in parent and not last:
            parent = parent[part]
            if not isinstance(parent, DictConfig):
                raise ValueError(f"{'.'.join(parts[: depth + 1])!r} has no parts; in {line!r}.")
        elif part in known:
            return f"+{line}"
        elif part not in parent:
            raise ValueError(unknown_key(key, part, known))
    return line


_MISSING = object()


def _known_keys(node: DictConfig) -> set[str]:
    known = {str(key) for key in node}
    if "_target_" in node:
        signature = target_signature(str(node["_target_"]), "")
        known |= set(signature.parameters) if signature else set()
    return known


# ---------------------------------------------------------------------------------- types


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node of a plain configuration that calls something, with where it stands."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from _targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from _targets(value, f"{path}[{place}]")


def _check_type(where: str, value: Any, expected: Any) -> None:
    if "_target_" in str(value) or "${" in str(value):  # made by a call, or not known yet
        return
    try:
        adapter = TypeAdapter(expected, config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_python(value)
    except ValidationError as error:
        wanted = expected.__name__ if inspect.isclass(expected) else str(expected)
        wanted = wanted.replace("typing.", "").replace("collections.abc.", "")
        found = error.errors()[0]["msg"]
        raise ValueError(f"{where}={value!r}; expected {wanted} ({found}).") from None
    except PydanticUserError:
        return  # a type that pydantic cannot describe: the constructor judges


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines) or type(error).__name__
