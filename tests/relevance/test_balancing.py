"""Tensions stay in [0, 1] and exploit decides between the question and the image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_arrcoc.relevance.balancing import (
    TENSIONS,
    AdaptiveTensions,
    FixedTensions,
    balance,
    statistics,
)

QUERY_DIM, CHANNELS = 6, 5
property_of = settings(deadline=None, max_examples=25, derandomize=True)


def context(images=2, rows=3, columns=4, tokens=5, seed=0):
    """Logit maps, textures, question and its mask, as a balancer is called with."""
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, 3, rows, columns, generator=random),
        torch.rand(images, CHANNELS, rows, columns, generator=random),
        torch.randn(images, tokens, QUERY_DIM, generator=random),
        torch.ones(images, tokens, dtype=torch.bool),
    ]


def shaken(module, scale=0.3):
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=random)
    return module


@pytest.fixture
def adaptive():
    torch.manual_seed(0)
    return AdaptiveTensions(QUERY_DIM, CHANNELS)


@pytest.fixture
def trained(adaptive):
    return shaken(adaptive)


# -------------------------------------------------------------------------------------- fixed


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
@pytest.mark.parametrize("name", TENSIONS)
def test_a_fixed_tension_outside_0_to_1_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value}; a tension lies in 0 to 1"):
        FixedTensions(**{name: value})


def test_fixed_tensions_are_the_same_for_every_image():
    tensions = FixedTensions(exploit=1, compress=0.25, focus=0)(*context(images=2))
    assert tensions.tolist() == [[1, 0.25, 0]] * 2
    assert tensions.dtype == torch.float32


# ----------------------------------------------------------------------------------- adaptive


def test_adaptive_tensions_start_in_the_middle(adaptive):
    assert adaptive(*context()).eq(0.5).all()


@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.1, 1.0, 100.0]))
@property_of
def test_adaptive_tensions_stay_in_0_to_1_whatever_was_learned(seed, scale):
    torch.manual_seed(seed)
    tensions = shaken(AdaptiveTensions(QUERY_DIM, CHANNELS), scale)(*context(seed=seed))
    assert tensions.shape == (2, len(TENSIONS))
    assert 0 <= tensions.min() <= tensions.max() <= 1
    assert (tensions - 0.5).abs().max() > 1e-4


def test_half_precision_around_them_changes_nothing(trained):
    expected = trained(*context())
    with torch.autocast("cpu", torch.bfloat16):
        tensions = trained(*context())
    assert tensions.dtype == torch.float32
    assert tensions.equal(expected)


def test_half_precision_inputs_still_give_fp32(trained):
    logits, textures, query, mask = context()
    with torch.autocast("cpu", torch.bfloat16):
        tensions = trained(logits.bfloat16(), textures.bfloat16(), query.bfloat16(), mask)
    assert tensions.dtype == torch.float32


@pytest.mark.parametrize("part", [0, 1, 2], ids=["scores", "textures", "question"])
def test_adaptive_tensions_depend_on_all_that_they_see(trained, part):
    one, other = context(seed=1), context(seed=2)
    changed = [other[i] if i == part else values for i, values in enumerate(one)]
    assert (trained(*changed) - trained(*one)).abs().max() > 1e-3


def test_padding_of_the_question_changes_no_tension(trained):
    logits, textures, query, mask = context()
    longer = torch.cat([100 * torch.ones(2, 3, QUERY_DIM), query], 1)
    longer_mask = torch.cat([torch.zeros(2, 3, dtype=torch.bool), mask], 1)
    torch.testing.assert_close(
        trained(logits, textures, longer, longer_mask), trained(logits, textures, query, mask)
    )


def test_a_neighbour_in_the_batch_changes_no_tension(trained):
    everything = context(images=3)
    together = trained(*everything)
    for i in range(3):
        alone = trained(*(values[i : i + 1] for values in everything))
        torch.testing.assert_close(alone[0], together[i], atol=1e-6, rtol=1e-6)


def test_the_policy_net_learns_all_over_also_from_maps_without_any_spread(adaptive):
    logits, textures, query, mask = context()
    flat = torch.zeros_like(logits).requires_grad_()
    shaken(adaptive)(flat, textures, query, mask).sum().backward()
    assert flat.grad.isfinite().all()
    for name, parameter in adaptive.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.norm() > 1e-6, name


# --------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("scores", "mean", "highest", "variance", "quadrants"),
    [
        ([[0.0, 1], [2, 3]], 1.5, 3, 1.25, [0, 1, 2, 3]),
        ([[0.0, 1, 2, 9]], 3, 9, 12.5, [0.5, 5.5, 0.5, 5.5]),
        ([[0.0], [1], [2], [9]], 3, 9, 12.5, [0.5, 0.5, 5.5, 5.5]),
        ([[4.0]], 4, 4, 0, [4, 4, 4, 4]),
        ([[0.0, 3, 6], [0, 3, 6]], 3, 6, 6, [1.5, 4.5, 1.5, 4.5]),
        ([[0.0, 0], [3, 3], [6, 6]], 3, 6, 6, [1.5, 1.5, 4.5, 4.5]),
    ],
    ids=[
        "square",
        "one row",
        "one column",
        "one cell",
        "middle column shared",
        "middle row shared",
    ],
)
def test_statistics_by_hand(scores, mean, highest, variance, quadrants):
    found = statistics(torch.tensor(scores)[None, None])
    assert found.shape == (1, 1, AdaptiveTensions.STATISTICS)
    expected = [mean, highest, variance**0.5, *quadrants]
    assert found.flatten().tolist() == pytest.approx(expected)


def test_statistics_keep_images_and_maps_apart():
    scores = torch.rand(2, 3, 4, 5)
    one_by_one = [[statistics(m[None, None])[0, 0] for m in maps] for maps in scores]
    expected = torch.stack([torch.stack(row) for row in one_by_one])
    torch.testing.assert_close(statistics(scores), expected)


# ------------------------------------------------------------------------------------ balance


def tensions_with(*exploits):
    return torch.tensor([[exploit, 0.3, 0.8] for exploit in exploits])


def test_full_exploit_is_the_question_alone_and_none_the_image_alone():
    logits = context(images=2)[0]
    information, perspectival, participatory = logits.unbind(1)
    exploiting, exploring = balance(logits, tensions_with(1, 0))
    torch.testing.assert_close(exploiting, 2 * participatory[0])
    torch.testing.assert_close(exploring, (information + perspectival)[1])


def test_balance_by_hand():
    logits = torch.tensor([1.0, 3.0, -2.0])[None, :, None, None]
    # 2 * (0.25 * -2 + 0.75 * (1 + 3) / 2)
    assert balance(logits, tensions_with(0.25)).tolist() == [[[2.0]]]


HEARD_BY_HAND = [  # opinions of 1, 3 and -2, exploit 0.25
    (["information", "participatory"], 2 * (0.25 * -2 + 0.75 * 1)),
    (["perspectival", "participatory"], 2 * (0.25 * -2 + 0.75 * 3)),
    (["information", "perspectival"], 1 + 3),
    (["information"], 2 * 1),
    (["perspectival"], 2 * 3),
    (["participatory"], 2 * -2),
]


@pytest.mark.parametrize(("scorers", "expected"), HEARD_BY_HAND, ids=lambda value: str(value))
def test_the_weights_are_dealt_out_among_those_that_are_heard(scorers, expected):
    opinions = {"information": 1.0, "perspectival": 3.0, "participatory": -2.0}
    logits = torch.tensor([value if name in scorers else 0 for name, value in opinions.items()])
    found = balance(logits[None, :, None, None], tensions_with(0.25), scorers)
    assert found.tolist() == [[[expected]]]


@pytest.mark.parametrize("scorers", [["participatory"], ["information", "perspectival"]])
@pytest.mark.parametrize("exploit", [0.0, 0.3, 1.0])
def test_where_a_side_is_silent_exploit_decides_nothing_but_stays_in_the_graph(scorers, exploit):
    logits = context(images=1)[0]
    tensions = tensions_with(exploit).requires_grad_()
    relevance = balance(logits, tensions, scorers)
    assert relevance.equal(balance(logits, tensions_with(0.5), scorers))
    relevance.square().sum().backward()
    assert tensions.grad.eq(0).all()


def test_two_scorers_that_agree_are_surer_than_each_alone():
    assert balance(torch.ones(1, 3, 1, 1), tensions_with(0.5)).item() == 2


def test_compress_and_focus_leave_the_order_of_cells_alone():
    logits = context(images=1)[0]
    others = torch.tensor([[0.4, 1.0, 0.0]])
    assert balance(logits, others).equal(balance(logits, tensions_with(0.4)))


def test_a_neighbour_in_the_batch_changes_no_relevance():
    logits = context(images=3)[0]
    tensions = tensions_with(0.1, 0.5, 0.9)
    together = balance(logits, tensions)
    for i in range(3):
        assert balance(logits[i : i + 1], tensions[i : i + 1])[0].equal(together[i])


def test_adaptive_tensions_start_where_they_are_told() -> None:
    balancer = AdaptiveTensions(6, 4, exploit=0.3, compress=0.8, focus=1.0)
    context = torch.rand(2, 3, 4, 5), torch.rand(2, 4, 4, 5), torch.rand(2, 7, 6), torch.ones(2, 7)
    tensions = balancer(*context[:3], context[3].bool())
    torch.testing.assert_close(tensions, torch.tensor([[0.3, 0.8, 0.99]]).expand(2, -1))
    with pytest.raises(ValueError, match=r"compress=1.5; a tension lies in 0 to 1"):
        AdaptiveTensions(6, 4, compress=1.5)
