"""Every metric of answers: sums over batches and processes, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from lightning_arrcoc.metrics import METRICS

SAID = ["red", "2 dogs", "Coca Col", "up", "yes"]
ACCEPTED = [
    ["red"],
    ["two dogs", "2 dogs", "2 dogs", "cats"],
    ["coca cola"],
    ["south"],
    ["yes"] * 10,
]
EXPECTED = {
    "exact_match": 3 / 5,
    "vqa_accuracy": (1 + (3 * 2 / 3 + 1) / 4 + 0 + 0 + 1) / 5,
    "anls": (1 + 1 + 8 / 9 + 0 + 1) / 5,
}


@pytest.mark.parametrize("name", METRICS)
def test_the_mean_over_batches_is_that_over_questions(name: str) -> None:
    metric = METRICS[name]()
    metric.update(SAID[:1], ACCEPTED[:1])
    metric.update(SAID[1:], ACCEPTED[1:])
    assert float(metric.compute()) == pytest.approx(EXPECTED[name])
    metric.reset()
    metric.update(SAID[:1], ACCEPTED[:1])
    assert float(metric.compute()) == 1


@pytest.mark.parametrize("name", METRICS)
def test_answers_that_are_no_lists_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=r"expected a list of accepted answers, \['red'\]"):
        METRICS[name]().update(["red"], ["red"])
    with pytest.raises(ValueError, match="2 predictions for 1 questions"):
        METRICS[name]().update(["red", "blue"], [["red"]])
    with pytest.raises(ValueError, match="accepts no answer"):
        METRICS[name]().update(["red"], [[]])


def test_exact_match_forgives_case_and_space_alone() -> None:
    score = METRICS["exact_match"]().score
    assert score(" The\tCat\n", ["the cat"]) == 1
    assert score("the cat.", ["the cat"]) == 0
    assert score("dog", ["cat", "DOG"]) == 1


def test_two_processes_find_what_one_finds(together: Callable[[str], list[str]]) -> None:
    printed = together(f"""
        import json
        from lightning_arrcoc.metrics import METRICS
        mine = slice(0, 1) if rank == 0 else slice(1, None)  # shares of different size
        found = {{}}
        for name, kind in METRICS.items():
            metric = kind()
            metric.update({SAID!r}[mine], {ACCEPTED!r}[mine])
            found[name] = float(metric.compute())
        print(json.dumps(found))
    """)
    for line in printed:
        assert json.loads(line) == pytest.approx(EXPECTED)
