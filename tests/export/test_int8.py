"""Fewer bits: what is written, and that a variant which does not help is called so."""

from __future__ import annotations

import copy

import pytest
import torch

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.export.measuring import Measured, in_turn_ms, inputs_of
from lightning_arrcoc.export.selector import SelectorProgram
from lightning_arrcoc.vlm.quantizing import bytes_of, quantize_language_model

BEFORE = Measured("fp32", 0.95, 10.0, 1000)


@pytest.mark.parametrize(
    ("accuracy", "ms", "size", "verdict"),
    [
        (0.95, 5.0, 1000, "helps"),
        (0.95, 10.0, 500, "helps"),
        (0.95, 20.0, 500, "smaller, but SLOWER"),
        (0.95, 10.0, 1000, "DOES NOT HELP"),
        (0.90, 5.0, 250, "DOES NOT HELP"),
    ],
)
def test_the_verdict_is_plain(accuracy: float, ms: float, size: int, verdict: str) -> None:
    said = Measured("int8", accuracy, ms, size).judged(BEFORE)
    assert said.startswith(f"int8: {verdict} (")


def test_calls_take_turns() -> None:
    calls: list[int] = []
    times = in_turn_ms([lambda: calls.append(0), lambda: calls.append(1)], rounds=3)
    assert calls == [0, 0, 1, 1, 0, 1, 0, 1, 0, 1]
    assert len(times) == 2


def test_inputs_are_heard_only_within(program: SelectorProgram) -> None:
    network = program.network
    textures, query, mask = program.inputs((1, 4, 4, 3))
    with inputs_of(network) as seen:
        network(None, query, mask, textures)
    network(None, query, mask, textures)
    ((heard, *_),) = seen
    assert torch.equal(heard, textures)


@pytest.mark.parametrize("bits", ["int8", "int4"])
@pytest.mark.filterwarnings("ignore")  # torchao's, about torch
def test_a_language_model_in_fewer_bits_is_smaller_and_nearly_the_same(
    bits: str, model: ArrCocQwen3VL
) -> None:
    pytest.importorskip("torchao")
    language = copy.deepcopy(model.backbone)
    before = bytes_of(language.model.language_model)
    tokens = torch.arange(40, 60)[None]
    with torch.no_grad():
        plain = language(input_ids=tokens).logits
        quantize_language_model(language, bits)  # type: ignore[arg-type]
        fewer = language(input_ids=tokens).logits
    assert bytes_of(language.model.language_model) < 0.4 * before
    assert not torch.equal(plain, fewer)
    likeness = torch.nn.functional.cosine_similarity(plain.flatten(), fewer.flatten(), dim=0)
    assert likeness > {"int8": 0.999, "int4": 0.95}[bits]


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.filterwarnings("ignore")  # torchao's, about torch
def test_a_selector_in_int8_finds_nearly_the_same_at_any_size(
    dynamic: bool, program: SelectorProgram
) -> None:
    pytest.importorskip("torchao")
    from lightning_arrcoc.export.quantized_selector import quantized

    exported = quantized(
        program, [program.inputs((1, 9, 8, 5), s) for s in range(3)], dynamic=dynamic
    )
    assert any(value.dtype == torch.int8 for value in exported.state_dict.values())
    size = sum(value.nbytes for value in exported.state_dict.values())
    assert size < 0.4 * sum(value.nbytes for value in program.state_dict().values())
    inputs = program.inputs((1, 7, 13, 6), 9)
    logit, tensions, looks = exported.module()(*inputs)
    expected = program(*inputs)
    both = torch.stack([logit.flatten(), expected[0].flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.99
    torch.testing.assert_close(tensions, expected[1], atol=0.05, rtol=0)
    torch.testing.assert_close(looks, expected[2])
