"""What a constructor takes, read from its source without importing it.

Importing torch and Lightning takes seconds; a misspelt key should not.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import typing
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

ANY_KEYWORD = "**"
_NAMES: dict[str, object] = {
    **{name: value for name, value in vars(builtins).items() if isinstance(value, type)},
    **{name: getattr(typing, name) for name in typing.__all__},
    **{name: getattr(collections.abc, name) for name in collections.abc.__all__},
}
# What an annotation is made of; anything that could call is absent.
_NODES = (
    ast.Expression, ast.Name, ast.Load, ast.Subscript, ast.BinOp, ast.BitOr, ast.Constant,
    ast.Tuple, ast.List,
)  # fmt: skip


class Signature(NamedTuple):
    """Parameters of a callable.

    Attributes:
        home: the module that defines it.
        parameters: name -> annotation, as source; an empty string where there is none.
        takes_any: whether it accepts any keyword.
        kind: "class", "function" (of a module) or "member" (of a class).
    """

    home: str
    parameters: dict[str, str]
    takes_any: bool
    kind: Literal["class", "function", "member"]


class _Found(NamedTuple):
    home: str
    node: ast.ClassDef | ast.FunctionDef
    is_member: bool


@cache
def read_signature(target: str) -> Signature | None:
    """Signature of a class, function or classmethod by its dotted name.

    Returns:
        None where the source does not tell: it is no such thing, is made at run time, or takes its
        constructor from a base class that cannot be followed.
    """
    found = _find(target)
    if found is None:
        return None
    function: ast.FunctionDef | None
    if isinstance(found.node, ast.ClassDef):
        function = _member(found.node, "__init__")
        if function is None:
            fields = _fields(found.node)
            return Signature(found.home, fields, False, "class") if fields else _inherited(found)
        arguments = function.args.args[1:]
    else:
        function = found.node
        bound = any(_name(d) == "classmethod" for d in function.decorator_list)
        arguments = function.args.args[1:] if bound else function.args.args
    parameters = {
        argument.arg: ast.unparse(argument.annotation) if argument.annotation else ""
        for argument in (*arguments, *function.args.kwonlyargs)
    }
    kind: Literal["class", "function", "member"] = "member" if found.is_member else "function"
    if isinstance(found.node, ast.ClassDef):
        kind = "class"
    return Signature(found.home, parameters, function.args.kwarg is not None, kind)


def annotated_type(annotation: str) -> object:
    """The type that an annotation names, where builtins and typing suffice to tell; else Any."""
    try:
        tree = ast.parse(annotation, mode="eval")
        if not all(isinstance(node, _NODES) for node in ast.walk(tree)):
            return typing.Any
        return eval(compile(tree, "annotation", "eval"), {"__builtins__": {}}, dict(_NAMES))
    except (NameError, TypeError, SyntaxError):
        return typing.Any


def _fields(node: ast.ClassDef) -> dict[str, str]:
    """Of a dataclass of its own, which makes its constructor at run time."""
    marks = [mark.func if isinstance(mark, ast.Call) else mark for mark in node.decorator_list]
    if "dataclass" not in map(_name, marks) or node.bases:
        return {}
    lines = [line for line in node.body if isinstance(line, ast.AnnAssign)]
    return {_name(line.target): ast.unparse(line.annotation) for line in lines}


def _inherited(found: _Found) -> Signature | None:
    assert isinstance(found.node, ast.ClassDef)
    for base in found.node.bases:
        target = _resolve_name(found.home, _name(base))
        if target and (signature := read_signature(target)):
            return Signature(found.home, signature.parameters, signature.takes_any, "class")
    return None


def _find(target: str, depth: int = 0) -> _Found | None:
    """The definition behind a dotted name, following re-exports."""
    module, file, rest = _locate(target)
    if file is None or not rest or depth > 8:
        return None
    for node in _statements(_parse(file)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == rest[0]:
            if len(rest) == 1:
                return _Found(module, node, is_member=False)
            if len(rest) > 2 or not isinstance(node, ast.ClassDef):
                return None
            member = _member(node, rest[1])
            return _Found(module, member, True) if member else _above(module, node, rest[1], depth)
    origin = _resolve_name(module, rest[0])
    return _find(".".join([origin, *rest[1:]]), depth + 1) if origin else None


def _above(module: str, node: ast.ClassDef, member: str, depth: int) -> _Found | None:
    """The definition of a member that a class has from those it is made from."""
    for base in node.bases:
        origin = _resolve_name(module, _name(base))
        if origin and (found := _find(f"{origin}.{member}", depth + 1)):
            return found
    return None


def _resolve_name(module: str, name: str) -> str | None:
    """Where a name of a module comes from: another dotted name, or its own."""
    _, file, _ = _locate(module)
    if file is None or not name:
        return None
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in _statements(_parse(file)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return f"{module}.{name}"
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    parts = package.split(".")
                    base = parts[: len(parts) - node.level + 1] if node.level else []
                    return ".".join([*base, *filter(None, [node.module]), alias.name])
    return None


def _locate(target: str) -> tuple[str, Path | None, list[str]]:
    """The longest leading module of a dotted name, its file, and the names left over."""
    parts = target.split(".")
    try:
        spec = find_spec(parts[0])
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return parts[0], None, parts[1:]
    file, used = Path(spec.origin), 1
    while used < len(parts) and file.name == "__init__.py":
        package, module = (
            file.parent / parts[used] / "__init__.py",
            file.parent / f"{parts[used]}.py",
        )
        if not package.is_file() and not module.is_file():
            break
        file, used = (package if package.is_file() else module), used + 1
    return ".".join(parts[:used]), file, parts[used:]


@cache
def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _statements(tree: ast.Module) -> list[ast.stmt]:
    """Top-level statements, those under `if` and `try` among them."""
    flat: list[ast.stmt] = []
    for node in tree.body:
        flat.append(node)
        if isinstance(node, (ast.If, ast.Try)):
            flat += [*node.body, *node.orelse]
    return flat


def _member(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == name:
            return member
    return None


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""
