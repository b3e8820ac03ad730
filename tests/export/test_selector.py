"""The selector as a program: what it answers, and a check that finds what is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.export.selector import OUTPUTS, SIZES, SelectorProgram, check
from lightning_arrcoc.relevance import TextureGenerator, build_realizer

FEW = SIZES[3:6]


def test_there_are_twenty_sizes_and_they_differ() -> None:
    assert len(set(SIZES)) == 20
    assert any(rows % 2 for _, rows, _, _ in SIZES)
    assert any(rows == 1 or columns == 1 for _, rows, columns, _ in SIZES)
    assert any(images > 1 for images, *_ in SIZES)


def test_it_answers_as_the_network_does(model: ArrCocQwen3VL, program: SelectorProgram) -> None:
    textures, query, mask = program.inputs((2, 5, 7, 4))
    found = model.arr_coc(None, query, mask, textures)
    logit, tensions, looks = program(textures, query, mask)
    assert torch.equal(logit, found.relevance_logit)
    assert torch.equal(tensions, found.tensions)
    assert torch.equal(looks, found.looks)
    assert program.outputs == OUTPUTS


def test_a_network_whose_channels_tell_nothing_of_looks_has_two_outputs() -> None:
    network = build_realizer(8, texture=TextureGenerator(["y", "x"])).eval()
    program = SelectorProgram(network)
    assert program.outputs == OUTPUTS[:2]
    assert len(program(*program.inputs((1, 3, 3, 2)))) == 2
    checked = check(lambda inputs: program(*inputs), program, FEW)
    assert checked.sound
    assert checked.alike == 3


def test_the_same_program_is_sound(program: SelectorProgram) -> None:
    checked = check(lambda inputs: program(*inputs), program, FEW)
    assert checked.errors == dict.fromkeys(OUTPUTS, 0.0)
    assert (checked.sizes, checked.alike, checked.sound) == (3, 3, True)


@pytest.mark.parametrize("wrong", [0.1, float("nan"), float("inf")])
def test_a_program_that_answers_otherwise_is_not(wrong: float, program: SelectorProgram) -> None:
    def off(inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        logit, *rest = program(*inputs)
        return [logit + wrong, *rest]

    checked = check(off, program, FEW)
    assert not checked.sound
    assert "NOT EQUAL" in checked.lines("It")[0]


def test_a_program_of_another_shape_is_not(program: SelectorProgram) -> None:
    checked = check(lambda inputs: [part[..., :1] for part in program(*inputs)], program, FEW)
    assert not checked.sound


def test_inputs_leave_the_last_of_several_images_without_a_question(
    program: SelectorProgram,
) -> None:
    _, _, mask = program.inputs((3, 4, 4, 6))
    assert not mask[-1].any()
    assert mask[0].any()


def test_it_is_a_module_without_weights_of_its_own(program: SelectorProgram) -> None:
    assert isinstance(program, nn.Module)
    assert all(name.startswith("network.") for name, _ in program.named_parameters())
