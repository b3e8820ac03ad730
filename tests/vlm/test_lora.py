"""Adapters leave the backbone the stock model: its class, its weights and, untrained, its words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.attribution import attribute_answers
from lightning_arrcoc.vlm.identity import backbone_identity
from lightning_arrcoc.vlm.loading import load_backbone
from lightning_arrcoc.vlm.lora import (
    Adapters,
    add_lora,
    base_alone,
    base_parameters,
    has_lora,
    lora_parameters,
    lora_settings,
    save_lora,
    set_lora_training,
)

peft = pytest.importorskip("peft")
ASKED = (("Which digit is red?", "7"), ("How many digits are there?", "3"))


def load(folder: Path, lora: Any = None, **options: Any) -> ArrCocQwen3VL:
    torch.manual_seed(0)
    return ArrCocQwen3VL.from_pretrained(str(folder), lora=lora, **options).eval()


def encode(model: ArrCocQwen3VL, pack: bool = False) -> dict[str, Any]:
    pixels = torch.randint(256, (96, 128, 3), generator=torch.manual_seed(0)).to(torch.uint8)
    image = Image.fromarray(pixels.numpy())
    assert model.processor is not None
    turns = ASKED if pack else ASKED[:1]
    questions, answers = [q for q, _ in turns], [a for _, a in turns]
    conversation = {"images": [image], "questions": questions, "answers": answers}
    return model.processor([conversation], pack=pack)  # type: ignore[list-item, return-value]


def move(model: ArrCocQwen3VL) -> None:
    """Adapters as if they had been trained."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora_parameters(model.backbone).values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("select", ["before_vision", "after_vision"])
def test_fresh_adapters_change_no_bit(backbone_folder: Path, select: Any) -> None:
    stock = load(backbone_folder, select=select)
    adapted = load(backbone_folder, add_lora, select=select)
    batch, packed = encode(stock), encode(stock, pack=True)
    del packed["attention_mask"], packed["query_mask"]
    with torch.no_grad():
        for options in ({"budget": 1.0}, {"budget": 0.25}, {"soft_sharpness": 2.0}):
            one, other = (model(**batch, **options) for model in (stock, adapted))
            assert torch.equal(one.logits, other.logits), options
    words = [m.generate(**batch, max_new_tokens=4, do_sample=False) for m in (stock, adapted)]
    assert torch.equal(words[0].sequences, words[1].sequences)
    shares = [attribute_answers(model.backbone, **packed) for model in (stock, adapted)]
    assert torch.equal(*shares)


def test_trained_adapters_change_what_is_said(backbone_folder: Path) -> None:
    """Or the test above would prove nothing."""
    stock, adapted = load(backbone_folder), load(backbone_folder, add_lora)
    move(adapted)
    batch = encode(stock)
    with torch.no_grad():
        assert not torch.allclose(stock(**batch).logits, adapted(**batch).logits, atol=1e-3)


def test_the_backbone_keeps_its_class_its_weights_and_its_identity(backbone_folder: Path) -> None:
    stock, adapted = load(backbone_folder), load(backbone_folder, add_lora)
    assert type(adapted.backbone) is type(stock.backbone)
    assert has_lora(adapted.backbone)
    assert not has_lora(stock.backbone)
    own = dict(stock.backbone.named_parameters())
    assert base_parameters(stock.backbone).keys() == own.keys()
    for name, value in base_parameters(adapted.backbone).items():
        assert torch.equal(value, own[name]), name
        assert not value.requires_grad
    assert backbone_identity(adapted.backbone) == backbone_identity(stock.backbone)


def test_arr_coc_starts_from_the_same_weights_with_and_without(backbone_folder: Path) -> None:
    one, other = load(backbone_folder), load(backbone_folder, add_lora)
    for name, value in one.arr_coc.state_dict().items():
        assert torch.equal(value, other.arr_coc.state_dict()[name]), name


def test_the_language_models_attention_is_adapted_and_nothing_else(backbone_folder: Path) -> None:
    backbone = load(backbone_folder, add_lora).backbone
    layers = backbone.config.text_config.num_hidden_layers
    names = lora_parameters(backbone)
    assert len(names) == 2 * 4 * layers  # A and B
    assert all(".language_model." in name and ".self_attn." in name for name in names)
    assert all(value.requires_grad for value in names.values())


def test_rank_scale_and_layers_can_be_chosen(backbone_folder: Path) -> None:
    backbone = load_backbone(str(backbone_folder))
    add_lora(backbone, rank=2, alpha=6, targets=("up_proj", "down_proj"))
    assert lora_settings(backbone) == {
        "rank": 2,
        "alpha": 6,
        "targets": ["down_proj", "up_proj"],
    }
    assert all(2 in value.shape and ".mlp." in n for n, value in lora_parameters(backbone).items())


def test_without_adapters_there_are_no_settings(backbone_folder: Path) -> None:
    backbone = load_backbone(str(backbone_folder))
    assert lora_settings(backbone) == {}
    assert lora_parameters(backbone) == {}
    with base_alone(backbone):
        pass


def test_the_base_alone_answers_as_the_stock_model(backbone_folder: Path) -> None:
    stock, adapted = load(backbone_folder), load(backbone_folder, add_lora)
    move(adapted)
    batch = encode(stock)
    lora_b = next(v for n, v in lora_parameters(adapted.backbone).items() if "lora_B" in n)
    lora_b.requires_grad_(False)
    with torch.no_grad():
        before = adapted(**batch).logits
        with base_alone(adapted.backbone):
            assert torch.equal(adapted(**batch).logits, stock(**batch).logits)
        assert torch.equal(adapted(**batch).logits, before)
    assert [v for v in lora_parameters(adapted.backbone).values() if not v.requires_grad] == [
        lora_b
    ]


def test_adapters_can_be_taken_out_and_put_in_again(backbone_folder: Path) -> None:
    stock, adapted = load(backbone_folder), load(backbone_folder, add_lora)
    move(adapted)
    batch = encode(stock)
    adapters = Adapters(adapted.backbone)
    own = {id(value) for value in base_parameters(adapted.backbone).values()}
    with torch.no_grad():
        before = adapted(**batch).logits
        adapters.take_out()
        assert not has_lora(adapted.backbone)
        assert adapted.backbone.state_dict().keys() == stock.backbone.state_dict().keys()
        assert {id(value) for value in adapted.backbone.parameters()} == own
        assert torch.equal(adapted(**batch).logits, stock(**batch).logits)
        adapters.put_in()
        assert has_lora(adapted.backbone)
        assert torch.equal(adapted(**batch).logits, before)
        assert not torch.equal(before, stock(**batch).logits)


def test_adapters_come_back_after_an_error(backbone_folder: Path) -> None:
    adapted = load(backbone_folder, add_lora)
    move(adapted)
    batch = encode(adapted)
    with torch.no_grad():
        before = adapted(**batch).logits
        with pytest.raises(KeyError), base_alone(adapted.backbone):
            raise KeyError
        assert torch.equal(adapted(**batch).logits, before)


# peft asks an old name of transformers' for gradient checkpointing
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_peft_loads_what_is_saved_onto_the_stock_model(
    backbone_folder: Path, tmp_path: Path
) -> None:
    adapted = load(backbone_folder, add_lora)
    move(adapted)
    save_lora(adapted.backbone, tmp_path / "adapter")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        file.name for file in (tmp_path / "adapter").iterdir()
    }
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (8, 16)
    loaded = peft.PeftModel.from_pretrained(
        load_backbone(str(backbone_folder)), tmp_path / "adapter"
    )
    words = {"input_ids": torch.arange(20, 40)[None]}
    with torch.no_grad():
        assert torch.equal(loaded(**words).logits, adapted.backbone(**words).logits)


def test_adapters_learn_in_fp32_whatever_the_backbone_has(backbone_folder: Path) -> None:
    adapted = load(backbone_folder, add_lora, dtype=torch.bfloat16)
    assert adapted.backbone.dtype == torch.bfloat16
    assert {value.dtype for value in lora_parameters(adapted.backbone).values()} == {torch.float32}
    with torch.no_grad():
        assert adapted(**encode(adapted)).logits.dtype == torch.bfloat16


def test_dropout_acts_in_training_alone(backbone_folder: Path) -> None:
    backbone = load_backbone(str(backbone_folder))
    add_lora(backbone, dropout=0.5)
    drops = [module for module in backbone.modules() if isinstance(module, nn.Dropout)]
    training = [drop for drop in drops if drop.p == 0.5]
    assert len(training) == 4 * backbone.config.text_config.num_hidden_layers
    for mode in (False, True, False):
        set_lora_training(backbone, mode)
        assert {drop.training for drop in training} == {mode}
        assert not backbone.model.visual.training


def test_without_peft_it_says_what_to_install(
    backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"lightning-arrcoc\[lora\]"):
        load(backbone_folder, add_lora)


def test_what_peft_refuses_is_a_value_error(backbone_folder: Path) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        add_lora(load_backbone(str(backbone_folder)), targets=["nonsense"])
    with pytest.raises(ValueError, match="positive integer"):
        add_lora(load_backbone(str(backbone_folder)), rank=0)
