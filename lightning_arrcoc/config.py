"""The command line's words -> a checked configuration, ahead of Hydra and without torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_arrcoc.free_text import is_quoted, quoted
from lightning_arrcoc.loggers.redaction import Redactor
from lightning_arrcoc.targets import (
    ALLOW_VARIABLE,
    check_config,
    check_type,
    find_targets,
    target_signature,
    unknown_key,
)

# Keys that no constructor takes, because the command itself reads them.
OPTIONS: Mapping[str, Any] = {
    "seed": int,
    "debug": bool,
    "ckpt": str | None,
    "weights": str | None,
    "image": str | None,
    "question": str | None,
    "picture_samples": int,
    "explain": bool,
    "explain_samples": int,
    "topic": str,
    "folder": str,
    "strict": bool,
    "rounds": int,
    "batches": int,
    "headroom": float,
    "most": int,
    "workers": int | None,
    "rebuild": bool,
    "format": str | None,
    "out": str | None,
    "overwrite": bool,
    "merge_lora": bool,
    "samples": int,
    "bits": str,
    "compile": bool,
    "budget": int | float | None,
    "max_new_tokens": int,
    "checkpoints": str | None,
    "mode": str,
    "checkpoint": str | None,
    "export": str | None,
    "examples": str | None,
    "port": int,
    "max_waiting": int,
    "timeout_s": float,
    "max_upload_mb": float,
}
LEAST = {
    "picture_samples": 0, "explain_samples": 1, "rounds": 1, "batches": 1, "workers": 0, "most": 1,
    "samples": 1, "max_new_tokens": 1, "port": 0, "max_waiting": 1, "timeout_s": 1,
    "max_upload_mb": 1,
}  # fmt: skip
FREE_TEXT = (
    "question", "image", "ckpt", "weights", "folder", "out", "model.backbone", "data.texture_cache",
    "checkpoints", "checkpoint", "export", "examples", "server.api_key_file",
)  # fmt: skip
PLAIN_WORD = re.compile(r"(?!(true|false|nan|inf|null)$)[a-z_./][\w./-]*", re.ASCII | re.IGNORECASE)
HELP = ("--help", "-h", "--hydra-help", "--version", "--shell-completion", "-sc")
WITH_VALUE = ("--config-dir", "-cd", "--cfg", "-c", "--package", "-p", "--info", "-i")
REFUSED = ("--config-path", "-cp", "--config-name", "-cn")
Compose = Callable[[str, list[str]], DictConfig]
HYDRA_MAY_CALL = ("hydra._internal.core_plugins.", "hydra_plugins.")
FLAGS = (*HELP, *WITH_VALUE, "--multirun", "-m", "--run", "-r", "--resolve")
without_secrets = Redactor({}).text
SECRET = re.compile(r"(^|_)(api_?key|key|token|password|secret)$", re.IGNORECASE)


def config_dir() -> Path:
    """The shipped configurations: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def check_overrides(command: str, arguments: list[str]) -> list[str]:
    """Compose once ahead of Hydra, to say in one line what is wrong.

    Args:
        command: name of the top-level configuration.
        arguments: what stands behind it on the command line.

    Returns:
        The arguments as Hydra takes them: free text is quoted, and a key that the configuration
        leaves out but the constructor it belongs to takes, such as
        ``trainer.limit_val_batches=2``, gets its ``+``.

    Raises:
        ValueError: an unknown word, key, group or option, a value of the wrong type, a forbidden
            target, or an output folder that cannot be written.
    """
    _refuse_unknown_flags(arguments)
    if any(flag in arguments for flag in HELP):
        return arguments
    sweep = any(flag in arguments for flag in ("-m", "--multirun"))
    arguments = arguments if sweep else [_quoted(word) for word in arguments]
    words = _overrides_among(arguments)
    extra = _value_of(arguments, ("--config-dir", "-cd"))
    try:
        overrides = OverridesParser.create().parse_overrides(words)
        with _hydra(extra) as composed:
            groups = [o for o in overrides if _is_group(o.key_or_group, extra)]
            chosen_groups = [_values(o)[0] for o in groups]
            base = composed(command, chosen_groups)
            completed = {str(o.input_line): _complete(o, base, extra) for o in overrides}
            choices = [_values(o, completed) for o in overrides]
            if not sweep:
                _refuse_several(overrides, choices)
            for chosen in _each_value_once(choices):
                whole = base if chosen == chosen_groups else composed(command, chosen)
                _check(whole, base, "sweep" if sweep else "run")
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    return [completed.get(word, word) for word in arguments]


def _check(config: DictConfig, base: DictConfig, kind: str) -> None:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    hydra = plain.pop("hydra")
    _refuse_secrets(plain)
    check_config(OmegaConf.create(plain))
    for key in plain:
        if key not in base:
            raise ValueError(unknown_key(key, key, base))
    for key, expected in OPTIONS.items():
        if key in plain:
            check_type(key, plain[key], expected)
    for key, least in LEAST.items():
        if (least if plain.get(key) is None else plain[key]) < least:
            raise ValueError(f"{key}={plain[key]}; expected {least} or more.")
    _check_hydra(hydra)
    if hydra["output_subdir"] is not None:  # those without a folder of a run say so themselves
        _check_writable(kind, str(hydra[kind]["dir"]), str(hydra["job"]["name"]))


def _check_hydra(hydra: dict[str, Any]) -> None:
    """What Hydra makes and calls itself, before our own code is asked."""
    if hydra.get("callbacks"):
        raise ValueError("hydra.callbacks is not allowed; use Lightning callbacks (callbacks=...).")
    if any(word in str(hydra) for word in ("oc.create", "oc.decode")):
        raise ValueError("A call hidden in text (oc.create, oc.decode) is not allowed in hydra.")
    if ALLOW_VARIABLE in str(hydra.get("job", {}).get("env_set")):
        raise ValueError(f"{ALLOW_VARIABLE} is set by who starts the program, not by hydra.job.")
    for part in ("launcher", "sweeper"):
        if not isinstance(hydra.get(part), dict):
            raise ValueError(f"hydra.{part}={hydra.get(part)!r}; expected one of hydra/{part}=...")
    for where, node in find_targets(hydra, "hydra"):
        if not str(node["_target_"]).startswith(HYDRA_MAY_CALL):
            raise ValueError(
                f"{where}._target_={node['_target_']} is not allowed; expected one of "
                f"{', '.join(HYDRA_MAY_CALL)}"
            )
    for path, value in _leaves([hydra.get("job_logging"), hydra.get("hydra_logging")]):
        if path[-1] == "()" or (path[-1] == "class" and not str(value).startswith("logging.")):
            raise ValueError(f"{value} in hydra's logging is not allowed; expected logging.*.")


def _refuse_secrets(config: dict[str, Any]) -> None:
    """A secret in the configuration would be written into the run's folder and to the logger."""
    for path, value in _leaves(config):
        name = str(path[-1])
        if not isinstance(value, str) or not value:
            continue
        if SECRET.search(name) or without_secrets(value) != value:
            raise ValueError(
                f"{'.'.join(map(str, path))} would be written into the run's record, and holds a "
                "secret by its name or looks. Leave it out and set the environment variable that "
                "its library reads."
            )


def _leaves(node: Any, path: tuple[Any, ...] = ("",)) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every plain value with the keys that lead to it."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, (*(path if path != ("",) else ()), key))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, path)
    else:
        yield path, node


def _check_writable(kind: str, folder: str, job: str) -> None:
    """Whether a run can make its folder: as far as its name is known before the run."""
    folder = folder.replace("${hydra.job.name}", job)
    known = Path(folder.split("${")[0] or ".").absolute()
    while not known.exists():
        known = known.parent
    if not known.is_dir() or not os.access(known, os.W_OK | os.X_OK):
        raise ValueError(
            f"No run can write below {str(known)!r}; expected a folder with write permission. "
            f"Start from another folder, or set hydra.{kind}.dir=..."
        )


# ---------------------------------------------------------------------------------- words


def _quoted(word: str) -> str:
    """A word whose value is free text, quoted for Hydra's grammar where it needs to be."""
    key, equals, value = word.partition("=")
    bare = key.lstrip("+")
    plain = PLAIN_WORD.fullmatch(value) or value in ("", "null")
    if not equals or bare not in FREE_TEXT or plain or is_quoted(value):
        return word
    return f"{key}={quoted(value)}"


def _refuse_unknown_flags(arguments: list[str]) -> None:
    """Hydra abbreviates flags and has some that load what it is given; these are ours."""
    for word in arguments:
        name = word.split("=")[0]
        if name in REFUSED:
            raise ValueError(f"{name} is not for this program; use --config-dir.")
        if name.startswith("-") and name not in FLAGS:
            raise ValueError(f"Unknown flag {name!r}; expected one of {', '.join(FLAGS)}.")


def _overrides_among(arguments: list[str]) -> list[str]:
    """The words that set something, without flags and their values."""
    words: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word in WITH_VALUE:
            next(rest, None)
        elif word.startswith("-"):
            continue
        elif "=" not in word and not word.startswith("~"):
            raise ValueError(f"Unknown word {word!r}; expected key=value, for instance seed=1.")
        else:
            words.append(word)
    return words


def _value_of(arguments: list[str], names: tuple[str, ...]) -> str | None:
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else next(iter(arguments[place + 1 :]), None)
    return None


def _refuse_several(overrides: list[Override], choices: list[list[str]]) -> None:
    for override, values in zip(overrides, choices, strict=True):
        if len(values) > 1:
            raise ValueError(
                f"{override.input_line} names several values; add -m to run each, or quote the "
                "text if it is one value with a comma."
            )


# ------------------------------------------------------------------------------ composing


@contextmanager
def _hydra(extra: str | None) -> Iterator[Compose]:
    """A composer over the shipped configurations and, beside them, a folder of the user's."""
    GlobalHydra.instance().clear()
    search = [f"hydra.searchpath=['file://{Path(extra).absolute()}']"] if extra else []
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield lambda name, words: compose(name, [*search, *words], return_hydra_config=True)
    GlobalHydra.instance().clear()


def _is_group(key: str, extra: str | None) -> bool:
    folders = [config_dir(), *([Path(extra)] if extra else [])]
    return key.startswith("hydra/") or any((folder / key).is_dir() for folder in folders)


def _values(override: Override, completed: Mapping[str, str] | None = None) -> list[str]:
    """The override as it is, or once for each value of a sweep."""
    line = (completed or {}).get(str(override.input_line), str(override.input_line))
    if not override.is_sweep_override():
        return [line]
    key = line.partition("=")[0]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _each_value_once(choices: list[list[str]]) -> Iterator[list[str]]:
    """Every value of every sweep in some composition, the other sweeps at their first."""
    first = [values[0] for values in choices]
    yield first
    for place, values in enumerate(choices):
        for value in values[1:]:
            yield [*first[:place], value, *first[place + 1 :]]


def _complete(override: Override, base: DictConfig, extra: str | None) -> str:
    """The override as Hydra takes it; a key that cannot exist is an error."""
    line, key = str(override.input_line), override.key_or_group
    if key.startswith("hydra.") or _is_group(key, extra):
        return line  # Hydra knows its own
    if override.is_add() or override.is_delete():
        return line
    node: Any = OmegaConf.to_container(base, resolve=False)
    parts = key.split(".")
    for depth, part in enumerate(parts):
        known = _known_keys(node)
        if part not in node:
            if part in known and depth == len(parts) - 1:
                return f"+{line}"
            if part in known:
                raise ValueError(
                    f"{'.'.join(parts[: depth + 1])!r} is not set, so it has no parts; in "
                    f"{line!r}. Choose one first: --help lists the groups."
                )
            raise ValueError(unknown_key(key, part, known - {"hydra"}))
        node = node[part]
        if depth < len(parts) - 1 and not isinstance(node, dict):
            raise ValueError(f"{'.'.join(parts[: depth + 1])!r} has no parts; in {line!r}.")
    return line


def _known_keys(node: Mapping[str, Any]) -> set[str]:
    known = set(node)
    if "_target_" in node:
        signature = target_signature(str(node["_target_"]), "")
        known |= set(signature.parameters) if signature else set()
    return known
