"""Spending a budget with numpy alone gives what the allocator gives."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_arrcoc.export import allocate as by_numpy
from lightning_arrcoc.relevance import ImageRelevance, TokenAllocator

FILE = Path(by_numpy.__file__)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 14),
    columns=st.integers(1, 14),
    share=st.floats(0.02, 1.0),
    compress=st.sampled_from([0.0, 0.3, 0.77, 0.99]),
    focus=st.sampled_from([0.0, 0.3, 1.0]),
    coarse=st.booleans(),
    sharp=st.sampled_from([0.2, 3.0, 40.0]),
    seed=st.integers(0, 10_000),
)
def test_tokens_are_those_of_the_allocator(
    rows: int, columns: int, share: float, compress: float, focus: float, coarse: bool,
    sharp: float, seed: int,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(rows, columns, generator=generator)
    looks = torch.randn(5, rows, columns, generator=generator)
    tensions = torch.tensor([0.5, compress, focus])
    (expected,) = TokenAllocator(coarse=coarse)([ImageRelevance(logits, tensions, looks)], share)
    found = by_numpy.allocate(logits.numpy(), tensions.numpy(), looks.numpy(), share, coarse=coarse)
    assert found.levels.tolist() == expected.levels.tolist()
    assert found.boxes.tolist() == expected.boxes.tolist()
    assert found.positions.tolist() == expected.positions.tolist()


def test_a_number_of_tokens_is_met() -> None:
    logits, tensions = np.linspace(-3, 3, 30).reshape(5, 6), np.array([0.5, 0.7, 0.3])
    assert len(by_numpy.allocate(logits, tensions, None, 7).levels) == 7


@pytest.mark.parametrize("budget", [0, 31, 0.0, 1.5, True, "4"])
def test_a_budget_that_cannot_be_one_is_refused(budget: object) -> None:
    with pytest.raises(ValueError, match="expected 1 to 30"):
        by_numpy.allocate(np.zeros((5, 6)), np.ones(3) / 2, None, budget)  # type: ignore[arg-type]


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        by_numpy.allocate(np.full((5, 6), np.nan), np.ones(3) / 2, None, 3)


def test_it_imports_numpy_and_the_standard_library_alone() -> None:
    tree = ast.walk(ast.parse(FILE.read_text()))
    names = {n.module for n in tree if isinstance(n, ast.ImportFrom)}
    assert names <= {"__future__", "typing", "numpy.typing"}


def test_a_copy_runs_where_our_package_is_not(tmp_path: Path) -> None:
    (tmp_path / "allocate.py").write_text(FILE.read_text())
    code = (
        "import numpy as np, sys, allocate\n"
        "t = allocate.allocate(np.arange(30.).reshape(5, 6), np.full(3, .5), None, 4)\n"
        "print(len(t.levels), sorted({'torch', 'lightning_arrcoc'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[0] == "4 []"
