"""The four steps work together: any part can be swapped, and every part learns."""

from functools import partial

import pytest
import torch
from torch import nn

from lightning_arrcoc.relevance import (
    AdaptiveTensions,
    FixedTensions,
    Knowing,
    Previous,
    TextureGenerator,
    TokenAllocator,
    build_realizer,
)
from lightning_arrcoc.relevance.balancing import balance
from lightning_arrcoc.relevance.textures import CELL_PX

QUERY_DIM = 6
PARTS = (
    "knowing.info_scorer",
    "knowing.persp_scorer",
    "knowing.partic_scorer",
    "balancer.norm",
    "balancer.policy_net",
    "null_query",
)


class Recorder(nn.Module):
    """Knows nothing, remembers what it was asked."""

    def forward(self, textures_ICHW, query_ILD, mask_IL):
        self.query_ILD, self.mask_IL = query_ILD, mask_IL
        images, _, rows, columns = textures_ICHW.shape
        return torch.zeros(images, 3, rows, columns)


def pictures(images=2, rows=2, columns=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(images, 3, rows * CELL_PX, columns * CELL_PX, generator=random)


def question(images=2, tokens=4, seed=0):
    random = torch.Generator().manual_seed(seed)
    query = torch.randn(images, tokens, QUERY_DIM, generator=random)
    return query, torch.ones(images, tokens, dtype=torch.bool)


def shake(module):
    """Noise on every weight, as after some training."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=random)


@pytest.fixture
def realizer():
    torch.manual_seed(0)
    return build_realizer(QUERY_DIM)


@pytest.fixture
def trained(realizer):
    shake(realizer)
    return realizer


# -------------------------------------------------------------------------------- what comes out


def test_a_realization_tells_what_was_found_and_why(trained):
    found = trained(pictures(), *question())
    assert found.textures.shape == (2, 13, 2, 3)
    assert found.scores.shape == (2, 3, 2, 3)
    assert found.tensions.shape == (2, 3)
    assert found.relevance.shape == found.relevance_logit.shape == (2, 2, 3)
    for share in (found.scores, found.tensions, found.relevance):
        assert 0 < share.min() < share.max() < 1
    # Relevance follows from scores and tensions alone.
    information, perspectival, participatory = found.scores.logit().unbind(1)
    exploit = found.tensions[:, 0, None, None]
    expected = 2 * exploit * participatory + (1 - exploit) * (information + perspectival)
    torch.testing.assert_close(found.relevance, expected.sigmoid())


def test_untrained_it_already_keeps_the_cell_where_something_is(realizer):
    image = torch.full((1, 3, 4 * CELL_PX, 5 * CELL_PX), 0.2)
    noise = torch.rand(3, CELL_PX, CELL_PX, generator=torch.Generator().manual_seed(0))
    image[0, :, 2 * CELL_PX : 3 * CELL_PX, CELL_PX : 2 * CELL_PX] = noise
    found = realizer(image, *question(images=1))
    (allocation,) = realizer.allocator([found.image(0)], 1)
    assert allocation.positions.tolist() == [[2, 1]]


def test_textures_made_before_are_as_good_as_the_images(trained):
    measured = trained(pictures(), *question())
    given = trained(None, *question(), textures_ICHW=trained.texture(pictures()))
    assert given.relevance_logit.equal(measured.relevance_logit)
    assert given.textures.equal(measured.textures)


def test_given_textures_are_used_instead_of_the_images(trained):
    other = trained.texture(pictures(seed=1))
    found = trained(pictures(seed=0), *question(), textures_ICHW=other)
    assert found.textures is other
    assert found.relevance_logit.equal(trained(pictures(seed=1), *question()).relevance_logit)


def test_a_neighbour_in_the_batch_changes_nothing(trained):
    images, (query, mask) = pictures(images=3), question(images=3)
    mask[1] = False
    mask[2, 2:] = False
    together = trained(images, query, mask)
    for i in range(3):
        alone = trained(images[i : i + 1], query[i : i + 1], mask[i : i + 1])
        for one, all_ in zip(alone[:5], together[:5], strict=True):
            torch.testing.assert_close(one[0], all_[i], atol=1e-5, rtol=1e-5)


def test_padding_of_the_question_changes_nothing(trained):
    query, mask = question()
    padding = 50 * torch.ones(2, 3, QUERY_DIM)
    unheard = torch.zeros(2, 3, dtype=torch.bool)
    padded = trained(pictures(), torch.cat([padding, query], 1), torch.cat([unheard, mask], 1))
    plain = trained(pictures(), query, mask)
    torch.testing.assert_close(padded.relevance_logit, plain.relevance_logit, atol=1e-5, rtol=1e-5)


def test_half_precision_around_it_still_gives_fp32(trained):
    query, mask = question()
    with torch.autocast("cpu", torch.bfloat16):
        found = trained(pictures().bfloat16(), query.bfloat16(), mask)
    assert {values.dtype for values in found if values is not None} == {torch.float32}


# ------------------------------------------------------------------------------ the null query


def test_the_null_query_is_heard_exactly_where_nothing_was_asked():
    recorder = Recorder()
    realizer = build_realizer(QUERY_DIM, knowing=recorder)
    query, mask = question(images=3, tokens=2)
    mask[1] = False
    mask[2, 0] = False
    realizer(pictures(images=3), query, mask)
    assert recorder.mask_IL.tolist() == [
        [False, True, True],
        [True, False, False],
        [False, False, True],
    ]
    assert recorder.query_ILD[:, 0].eq(realizer.null_query).all()
    assert recorder.query_ILD[:, 1:].equal(query)


def test_without_a_question_relevance_depends_on_the_null_query_alone(trained):
    query, mask = question()
    mask[1] = False
    before = trained(pictures(), query, mask).relevance_logit
    with torch.no_grad():
        trained.null_query += torch.linspace(-1, 1, QUERY_DIM)
    other_null = trained(pictures(), query, mask).relevance_logit
    assert other_null[0].equal(before[0])
    assert (other_null[1] - before[1]).abs().max() > 1e-3
    other_padding = trained(pictures(), query + 5, mask).relevance_logit
    torch.testing.assert_close(other_padding[1], other_null[1])


def test_an_empty_question_may_be_of_length_zero(trained):
    query, mask = question(tokens=0)
    assert trained(pictures(), query, mask).relevance.isfinite().all()


# ------------------------------------------------------------------- the frame or turn before

REMEMBERED = ("motion", "previous_saliency", "previous_relevance")


@pytest.fixture
def remembering():
    torch.manual_seed(0)
    made = build_realizer(QUERY_DIM, TextureGenerator("full"))
    shake(made)
    return made


def test_what_was_seen_is_told_to_the_next_turn(remembering):
    first = remembering(pictures(), *question())
    assert first.seen.images.equal(pictures())
    assert first.seen.relevance.equal(first.relevance)
    again = remembering(pictures(), *question(seed=1), previous=first.seen)
    motion, saliency, relevance = (
        again.textures[:, remembering.texture.index(name)] for name in REMEMBERED
    )
    assert not motion.any()
    assert saliency.equal(first.textures[:, remembering.texture.index("saliency")])
    assert relevance.equal(first.relevance)
    without = remembering(pictures(), *question(seed=1))
    assert not without.textures[:, remembering.texture.index("previous_relevance")].any()
    assert (again.relevance - without.relevance).abs().max() > 1e-3


def test_in_the_next_frame_what_changed_has_moved(remembering):
    first = remembering(pictures(), *question())
    frame = pictures()
    frame[0, :, :CELL_PX, :CELL_PX] = 1 - frame[0, :, :CELL_PX, :CELL_PX]
    found = remembering(frame, *question(), previous=first.seen)
    motion = found.textures[:, remembering.texture.index("motion")]
    assert motion.nonzero().tolist() == [[0, 0, 0]]


def test_nothing_is_learned_through_what_was_seen(remembering):
    first = remembering(pictures(), *question())
    assert first.relevance.requires_grad
    assert not any(values.requires_grad for values in first.seen)


def test_core_textures_refuse_a_turn_before_that_they_could_not_tell_of(trained):
    assert trained(pictures(), *question()).seen is None
    with pytest.raises(ValueError, match=r"no texture channel tells of it.*channels=full"):
        trained(pictures(), *question(), previous=Previous(relevance=torch.ones(2, 2, 3)))


def test_a_turn_before_beside_given_textures_is_refused(remembering):
    first = remembering(pictures(), *question())
    with pytest.raises(ValueError, match=r"arr_coc\.measure\(images, previous\)"):
        remembering(pictures(), *question(), textures_ICHW=first.textures, previous=first.seen)
    textures = remembering.measure(pictures(), first.seen)
    given = remembering(None, *question(), textures_ICHW=textures)
    expected = remembering(pictures(), *question(), previous=first.seen)
    assert given.relevance_logit.equal(expected.relevance_logit)


# --------------------------------------------------------------------------- query-blind


def blinded(realizer):
    """The same weights, but deaf to the question."""
    blind = build_realizer(QUERY_DIM, query_blind=True)
    blind.load_state_dict(realizer.state_dict())
    return blind


def test_query_blind_no_question_changes_anything(trained):
    blind = blinded(trained)
    query, mask = question()
    first = blind(pictures(), query, mask)
    other_words = blind(pictures(), *question(seed=7))
    longer = blind(pictures(), *question(tokens=11))
    nothing = blind(pictures(), query, torch.zeros_like(mask))
    for found in (other_words, longer, nothing):
        assert found.relevance_logit.equal(first.relevance_logit)
        assert found.scores.equal(first.scores)
        assert found.tensions.equal(first.tensions)
    heard = trained(pictures(), query, mask)
    assert (heard.relevance_logit - first.relevance_logit).abs().max() > 1e-3


def test_query_blind_it_answers_as_where_nothing_was_asked(trained):
    query, mask = question()
    unasked = trained(pictures(), query, torch.zeros_like(mask))
    found = blinded(trained)(pictures(), query, mask)
    torch.testing.assert_close(found.relevance_logit, unasked.relevance_logit)


def test_query_blind_the_images_still_matter_and_the_null_query_learns(trained):
    blind = blinded(trained)
    found = blind(pictures(), *question())
    assert (found.relevance - blind(pictures(seed=1), *question()).relevance).abs().max() > 1e-3
    found.relevance.sum().backward()
    assert blind.null_query.grad.abs().max() > 0


# ------------------------------------------------------------------------------ scorers left out


@pytest.mark.parametrize("left_out", range(3), ids=Knowing.NAMES)
def test_a_scorer_left_out_scores_a_half_and_leaves_the_relevance_to_the_others(left_out):
    heard = [name for place, name in enumerate(Knowing.NAMES) if place != left_out]
    realizer = build_realizer(QUERY_DIM, knowing=partial(Knowing, scorers=heard))
    shake(realizer)
    found = realizer(pictures(), *question())
    assert found.scores[:, left_out].eq(0.5).all()
    logits = realizer.knowing(found.textures, *realizer._with_null(*question()))
    torch.testing.assert_close(found.relevance_logit, balance(logits, found.tensions, heard))
    of_all = balance(logits, found.tensions)
    assert (found.relevance_logit - of_all).abs().max() > 1e-3


# ------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("part", PARTS)
def test_gradients_of_relevance_match_finite_differences(trained, part):
    images, (query, mask) = pictures(), question()
    mask[1] = False  # the second image asks the null query
    weights = [p for name, p in trained.named_parameters() if name.startswith(part)]

    def total_relevance():
        return trained(images, query, mask).relevance.double().sum()

    gradients = torch.autograd.grad(total_relevance(), weights)
    slope = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert slope > 1e-3
    step = 1e-2 / max(slope.item(), 1.0)  # far enough for fp32, near enough for a straight line
    with torch.no_grad():

        def after(distance):
            for weight, gradient in zip(weights, gradients, strict=True):
                weight += distance * gradient / slope
            return total_relevance()

        ahead, behind = after(step), after(-2 * step)
    assert ((ahead - behind) / (2 * step)).item() == pytest.approx(slope.item(), rel=1e-2)


# ------------------------------------------------------------------------------------ its parts


def test_names_in_the_state_dict_are_the_promised_ones(realizer):
    state = realizer.state_dict()
    unexpected = [name for name in state if not name.startswith(PARTS)]
    missing = [part for part in PARTS if not any(name.startswith(part) for name in state)]
    assert not unexpected
    assert not missing
    of_info_scorer = [weight for name, weight in state.items() if "info_scorer" in name]
    assert of_info_scorer[0].shape == (256, realizer.texture.out_channels)


def test_checkpoints_of_the_default_model_stay_loadable(realizer):
    """Every name and shape, as they were when the first checkpoints were made."""
    shapes = {name: tuple(weight.shape) for name, weight in realizer.state_dict().items()}
    hidden, channels, tensions = 64, 13, 3
    seen = QUERY_DIM + 3 * AdaptiveTensions.STATISTICS + channels
    assert shapes == {
        "null_query": (QUERY_DIM,),
        "knowing.info_scorer.residual.0.weight": (256, channels),
        "knowing.info_scorer.residual.0.bias": (256,),
        "knowing.info_scorer.residual.2.weight": (1, 256),
        "knowing.info_scorer.residual.2.bias": (1,),
        "knowing.persp_scorer.residual.0.weight": (32, channels, 3, 3),
        "knowing.persp_scorer.residual.0.bias": (32,),
        "knowing.persp_scorer.residual.2.weight": (1, 32, 1, 1),
        "knowing.persp_scorer.residual.2.bias": (1,),
        "knowing.partic_scorer.cells.0.weight": (128, channels, 3, 3),
        "knowing.partic_scorer.cells.0.bias": (128,),
        "knowing.partic_scorer.cells.2.weight": (128, 128, 3, 3),
        "knowing.partic_scorer.cells.2.bias": (128,),
        "knowing.partic_scorer.cells.4.weight": (65, 128, 1, 1),
        "knowing.partic_scorer.cells.4.bias": (65,),
        "knowing.partic_scorer.norm.weight": (QUERY_DIM,),
        "knowing.partic_scorer.norm.bias": (QUERY_DIM,),
        "knowing.partic_scorer.tokens.0.weight": (128, 2 * QUERY_DIM),
        "knowing.partic_scorer.tokens.0.bias": (128,),
        "knowing.partic_scorer.tokens.2.weight": (65, 128),
        "knowing.partic_scorer.tokens.2.bias": (65,),
        "balancer.norm.weight": (QUERY_DIM,),
        "balancer.norm.bias": (QUERY_DIM,),
        "balancer.policy_net.0.weight": (hidden, seen),
        "balancer.policy_net.0.bias": (hidden,),
        "balancer.policy_net.2.weight": (tensions, hidden),
        "balancer.policy_net.2.bias": (tensions,),
    }


def test_promised_attributes_are_there(realizer):
    assert realizer.texture.out_channels == 13
    assert realizer.allocator.num_positions == 0.1
    assert isinstance(realizer.knowing, Knowing)
    assert isinstance(realizer.balancer, AdaptiveTensions)


def test_state_survives_a_round_trip(trained):
    torch.manual_seed(1)
    copy = build_realizer(QUERY_DIM)
    copy.load_state_dict(trained.state_dict())
    one, other = copy(pictures(), *question()), trained(pictures(), *question())
    assert one.relevance_logit.equal(other.relevance_logit)


def test_parts_that_are_given_are_the_parts_that_work():
    texture, allocator = TextureGenerator(), TokenAllocator(7)
    knowing, balancer = Recorder(), FixedTensions(exploit=0.9)
    realizer = build_realizer(QUERY_DIM, texture, knowing, balancer, allocator)
    assert realizer.texture is texture
    assert realizer.knowing is knowing
    assert realizer.balancer is balancer
    assert realizer.allocator is allocator
    found = realizer(pictures(), *question())
    torch.testing.assert_close(found.tensions[:, 0], torch.tensor([0.9, 0.9]))
    assert found.relevance.eq(0.5).all()
    assert knowing.query_ILD.shape == (2, 5, QUERY_DIM)


def test_makers_of_parts_learn_what_they_have_to_fit():
    asked = {}

    def make_knowing(**fit):
        asked["knowing"] = fit
        return Recorder()

    def make_balancer(**fit):
        asked["balancer"] = fit
        return FixedTensions()

    realizer = build_realizer(QUERY_DIM, knowing=make_knowing, balancer=make_balancer)
    assert isinstance(realizer.knowing, Recorder)
    assert isinstance(realizer.balancer, FixedTensions)
    assert asked == {
        "knowing": {"query_dim": QUERY_DIM, "channels": realizer.texture.channels},
        "balancer": {"query_dim": QUERY_DIM, "channels": 13},
    }


def test_a_cast_of_the_model_around_it_rounds_nothing():
    realizer = build_realizer(8)
    holder = torch.nn.ModuleDict({"arr_coc": realizer, "other": torch.nn.Linear(2, 2)})
    before = {name: value.clone() for name, value in realizer.state_dict().items()}
    holder.to(torch.bfloat16)
    assert holder["other"].weight.dtype == torch.bfloat16
    for name, value in realizer.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_neither_images_nor_textures_is_refused():
    with pytest.raises(ValueError, match="Neither images nor textures"):
        build_realizer(8)(None, torch.zeros(1, 1, 8), torch.ones(1, 1, dtype=torch.bool))
