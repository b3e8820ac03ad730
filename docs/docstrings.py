"""Docstrings as Markdown, while the reference is built: tables, and arguments that share a line."""

from __future__ import annotations

import re
from typing import Any

import griffe

RULE = re.compile(r"^ *=+( +=+)+ *$")
SHARED = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<rest>.*)$")
OPEN = re.compile(r"^ +\w+(?:, \w+)*,$")  # names that go on in the next line


class Docstrings(griffe.Extension):
    """What a reader of the code sees, for readers of the page."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            lines = obj.docstring.value.splitlines()
            obj.docstring.value = "\n".join(arguments_apart(tables(lines)))


def tables(lines: list[str]) -> list[str]:
    """Simple tables of reStructuredText, in those of Markdown."""
    rules = [number for number, line in enumerate(lines) if RULE.match(line)]
    for top, _, bottom in reversed([*zip(*[iter(rules)] * 3, strict=False)]):
        starts = [found.start() for found in re.finditer("=+", lines[top])]
        bounds = [*zip(starts, [*starts[1:], None], strict=True)]
        rows: list[list[str]] = []
        for line in lines[top + 1 : bottom]:
            if RULE.match(line):
                rows.append(["---"] * len(starts))
                continue
            cells = [line[begin:end].strip() for begin, end in bounds]
            if cells[0] or not rows:
                rows.append(cells)
            else:  # goes on with the row before
                rows[-1] = [" ".join(pair).strip() for pair in zip(rows[-1], cells, strict=True)]
        table = [
            "| " + " | ".join(row).replace("``", "`").replace("<", "&lt;") + " |" for row in rows
        ]
        lines[top : bottom + 1] = ["", *table, ""]
    return lines


def arguments_apart(lines: list[str]) -> list[str]:
    """Each argument by itself, where several share their words."""
    found: list[str] = []
    waiting, others, depth = "", list[str](), 0
    for line in lines:
        whole = f"{waiting} {line.strip()}" if waiting else line
        if OPEN.match(whole):
            waiting = whole.rstrip()
            continue
        waiting = ""
        if others and len(line) - len(line.lstrip()) <= depth:  # the shared words are over
            found, others = found + others, []
        shared = SHARED.match(whole)
        if shared:
            first, *rest = shared["names"].split(", ")
            depth = len(shared["indent"])
            others = [f"{shared['indent']}{name}: as `{first}`." for name in rest]
            whole = f"{shared['indent']}{first}: {shared['rest']}"
        found.append(whole)
    return found + others
