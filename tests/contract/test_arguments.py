"""Every public drop-in is registered, and refuses arguments that make no sense."""

from __future__ import annotations

import inspect
import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_arrcoc import callbacks, loggers, plugins

from .registry import PIECES
from .running import run
from .scenarios import SCENARIOS

PUBLIC = {
    name: getattr(home, name)
    for home in (callbacks, loggers, plugins)
    for name in home.__all__
    if inspect.isclass(getattr(home, name))
}
KEYS = [key for key in PIECES if key in PUBLIC]  # of whom arguments are registered
NONSENSE = [
    (key, name, value)
    for key in KEYS
    for name, bad in PIECES[key].nonsense.items()
    for value in bad
]


def test_every_public_class_is_registered_and_no_other(tmp_path: Path) -> None:
    assert {key.partition(":")[0] for key in PIECES} == set(PUBLIC)
    for key, piece in PIECES.items():
        assert type(piece.make(tmp_path)) is PUBLIC[key.partition(":")[0]]


@pytest.mark.parametrize("key", KEYS)
def test_every_parameter_is_registered_with_what_it_refuses_or_as_free(key: str) -> None:
    parameters = set(inspect.signature(PUBLIC[key]).parameters)
    assert {*PIECES[key].nonsense, *PIECES[key].free} == parameters
    assert not {*PIECES[key].nonsense} & {*PIECES[key].free}


@pytest.mark.parametrize(("key", "name", "value"), NONSENSE)
def test_nonsense_is_refused_by_name(key: str, name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError, MisconfigurationException), match=name):
        PUBLIC[key](**{name: value})


@pytest.mark.parametrize("key", KEYS)
def test_it_can_be_made_without_an_argument(key: str) -> None:
    assert PUBLIC[key]()


@pytest.mark.parametrize("key", PIECES)
def test_a_copy_and_a_pickle_fit_as_it_does(key: str, tmp_path: Path) -> None:
    """As a strategy that starts processes by copying sends it there."""
    piece = PIECES[key]
    copies = {"copied": deepcopy, "pickled": lambda made: pickle.loads(pickle.dumps(made))}
    weights = []
    for name, copy in {"itself": lambda made: made, **copies}.items():
        same = piece._replace(make=lambda folder, copy=copy: copy(piece.make(folder)))
        weights.append(run(SCENARIOS["plain"], tmp_path / name, **same.settings(tmp_path / name)))
    for copied in weights[1:]:
        assert (copied.random, copied.files) == (weights[0].random, weights[0].files)
        for name, value in copied.weights.items():
            assert value.equal(weights[0].weights[name])
