"""Scores start at their priors, learn everywhere, and hear the question and nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from lightning_arrcoc.relevance.knowing import (
    PRIOR_MARGIN,
    InformationScorer,
    Knowing,
    ParticipatoryScorer,
    PerspectivalScorer,
    masked_mean,
    standardised,
)
from lightning_arrcoc.relevance.textures import CORE, FULL, Channel, channel_index

QUERY_DIM = 6
SCORERS = {
    "information": "info_scorer",
    "perspectival": "persp_scorer",
    "participatory": "partic_scorer",
}
property_of = settings(deadline=None, max_examples=25, derandomize=True)


def textures(images=2, rows=3, columns=4, seed=0):
    """Any values in [0, 1]: the scorers need no real picture."""
    random = torch.Generator().manual_seed(seed)
    return torch.rand(images, len(CORE), rows, columns, generator=random)


def question(images=2, tokens=5, seed=0):
    """Token embeddings ``(I, L, D)``, all of them real."""
    random = torch.Generator().manual_seed(seed)
    query = torch.randn(images, tokens, QUERY_DIM, generator=random)
    return query, torch.ones(images, tokens, dtype=torch.bool)


def shaken(module, seed=0, scale=0.1):
    """The module after some training, as it were: noise on every weight."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=random)
    return module


def channel_of(textures_ICHW, name):
    return textures_ICHW[:, channel_index(CORE, name)]


@pytest.fixture
def knowing():
    torch.manual_seed(0)
    return Knowing(QUERY_DIM)


@pytest.fixture
def trained(knowing):
    return shaken(knowing)


# ------------------------------------------------------------------------------------- priors


def test_at_first_scores_are_the_closed_form_priors(knowing):
    seen = textures()
    information, perspectival, participatory = knowing(seen, *question()).sigmoid().unbind(1)
    salient = channel_of(seen, "saliency") * (1 - 0.5 * channel_of(seen, "eccentricity"))

    def kept_finite(prior):
        return prior.clip(PRIOR_MARGIN, 1 - PRIOR_MARGIN)

    torch.testing.assert_close(information, kept_finite(channel_of(seen, "contrast")))
    torch.testing.assert_close(perspectival, kept_finite(salient))
    assert participatory.eq(0.5).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_priors_stay_finite_where_textures_reach_their_ends(knowing, value):
    logits = knowing(torch.full((1, len(CORE), 2, 2), value), *question(images=1))
    assert logits.isfinite().all()


def test_information_averages_the_detail_channels_that_the_table_has():
    table = tuple(
        Channel(name, "", 0, 1, "") for name in ("high_pass", "red", "contrast", "entropy")
    )
    values = torch.tensor([0.3, 0.9, 0.6, 0.0])[None, :, None, None]
    assert InformationScorer(table)(values).sigmoid().item() == pytest.approx((0.3 + 0.6 + 0) / 3)


def perspectival_of(**values):
    """Score of one cell before any learning, from these channels alone."""
    table = tuple(Channel(name, "", 0, 1, "") for name in values)
    seen = torch.tensor(list(values.values()))[None, :, None, None]
    return PerspectivalScorer(table)(seen).sigmoid().item()


def test_the_foveal_weight_needs_salience_to_weigh_and_salience_does_without():
    assert perspectival_of(saliency=0.8, eccentricity=0.5) == pytest.approx(0.8 * 0.75)
    assert perspectival_of(eccentricity=0.5, saliency=0.8) == pytest.approx(0.8 * 0.75)
    assert perspectival_of(red=0.3, saliency=0.8) == pytest.approx(0.8)
    assert perspectival_of(eccentricity=0.5) == 0.5


@given(names=st.sets(st.sampled_from([channel.name for channel in FULL]), min_size=1))
@property_of
def test_any_part_of_the_channels_will_do_and_a_prior_without_its_channels_is_even_odds(names):
    table = tuple(channel for channel in FULL if channel.name in names)
    seen = textures()[:, :1].repeat(1, len(table), 1, 1) * 0.9 + 0.05
    knowing = Knowing(QUERY_DIM, table)
    information, perspectival, _ = knowing(seen, *question()).unbind(1)
    assert information.eq(0).all() == names.isdisjoint(InformationScorer.DETAIL)
    assert perspectival.eq(0).all() == ("saliency" not in names)
    found = shaken(knowing)(seen, *question())
    assert found.isfinite().all()
    assert found.std((2, 3)).min() > 0  # what is learned is heard from each of them


# ----------------------------------------------------------------------------------- learning


def gradient_norms(module):
    return {
        name: 0.0 if parameter.grad is None else parameter.grad.norm().item()
        for name, parameter in module.named_parameters()
    }


@pytest.mark.parametrize(
    "last", ["info_scorer.residual.2", "persp_scorer.residual.2", "partic_scorer.cells.4"]
)
def test_the_last_layer_of_each_scorer_learns_from_the_first_step_on(knowing, last):
    knowing(textures(), *question()).sigmoid().sum().backward()
    norms = gradient_norms(knowing)
    assert norms[f"{last}.weight"] > 1e-3
    assert norms[f"{last}.bias"] > 1e-3


def test_every_layer_learns_from_then_on(trained):
    trained(textures(), *question()).sigmoid().sum().backward()
    idle = {name for name, norm in gradient_norms(trained).items() if not norm > 1e-6}
    assert not idle


@pytest.mark.parametrize(
    ("scorer", "hears"),
    [
        (InformationScorer(CORE, width=3), False),
        (PerspectivalScorer(CORE, width=3), False),
        (ParticipatoryScorer(CORE, QUERY_DIM, width=3, dim=2), True),
    ],
    ids=SCORERS,
)
def test_gradients_match_finite_differences(scorer, hears):
    scorer = shaken(scorer.double())
    query, mask = question(images=1, tokens=3)
    mask[0, 2] = False
    inputs = [textures(1, 2, 2).double(), *([query.double(), mask] if hears else [])]
    names, weights = zip(*scorer.named_parameters(), strict=True)

    def total_relevance(*weights):
        named = dict(zip(names, weights, strict=True))
        return functional_call(scorer, named, tuple(inputs)).sigmoid().sum()

    assert torch.autograd.gradcheck(total_relevance, weights)


# --------------------------------------------------------------------------------- the question


def test_only_the_participatory_score_hears_the_question(trained):
    one = trained(textures(), *question(seed=1))
    other = trained(textures(), *question(seed=2))
    assert one[:, :2].equal(other[:, :2])
    assert (one[:, 2] - other[:, 2]).abs().min() > 1e-3


def test_different_cells_answer_differently_to_one_question(trained):
    same_cells = textures(1, 1, 1).expand(-1, -1, 3, 3)
    logits = trained(torch.cat([same_cells, textures(1, 3, 3)]), *question())
    assert logits[1, 2].std() > 1e-2


@given(
    tokens=st.integers(1, 5),
    padding=st.integers(1, 6),
    seed=st.integers(0, 2**31),
    loudness=st.sampled_from([0.0, 1.0, 1e3]),
)
@property_of
def test_neither_padding_nor_token_order_changes_a_score(tokens, padding, seed, loudness):
    torch.manual_seed(seed)
    trained = shaken(Knowing(QUERY_DIM), seed)
    query, mask = question(1, tokens, seed)
    padded_query = torch.cat([query, loudness * torch.randn(1, padding, QUERY_DIM)], 1)
    padded_mask = torch.cat([mask, torch.zeros(1, padding, dtype=torch.bool)], 1)
    anywhere = torch.randperm(tokens + padding)
    torch.testing.assert_close(
        trained(textures(1), padded_query[:, anywhere], padded_mask[:, anywhere]),
        trained(textures(1), query, mask),
        atol=1e-4,
        rtol=1e-4,
    )


def test_every_real_token_is_heard(trained):
    query, mask = question(1, 4)
    whole = trained(textures(1), query, mask)[:, 2]
    for token in range(4):
        without = mask.clone()
        without[0, token] = False
        assert (trained(textures(1), query, without)[:, 2] - whole).abs().max() > 1e-3, token


def test_a_neighbour_in_the_batch_changes_nothing(trained):
    seen, (query, mask) = textures(3), question(3)
    mask[1, 2:] = False
    together = trained(seen, query, mask)
    for i in range(3):
        alone = trained(seen[i : i + 1], query[i : i + 1], mask[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_a_flat_channel_stays_flat_and_others_are_scaled_by_their_own_image(level):
    seen = textures(2)
    seen[1] = 0.1 * seen[0] + 0.5  # less contrast, other ground
    seen[:, 3] = level
    dark, light = standardised(seen)
    torch.testing.assert_close(dark[3], torch.zeros_like(dark[3]))
    varied = [i for i in range(len(CORE)) if i != 3]
    torch.testing.assert_close(
        dark[varied].mean((1, 2)), torch.zeros(len(varied)), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        dark[varied].std((1, 2), correction=0), torch.ones(len(varied)), atol=0.01, rtol=0
    )
    torch.testing.assert_close(light[varied], dark[varied], atol=0.25, rtol=0.1)


def test_an_image_of_half_the_contrast_is_described_alike(trained):
    seen = textures(1, 6, 6)
    whole = trained(seen, *question(1))[:, 2]
    half = trained(0.5 * seen + 0.3, *question(1))[:, 2]
    torch.testing.assert_close(half, whole, atol=0.1 * whole.std().item(), rtol=0.05)


def test_what_is_asked_for_is_described_with_what_surrounds_it(trained):
    """Two cells away counts, three do not."""
    seen = textures(1, 9, 9)
    changed = seen.clone()
    changed[0, :, 4, 4] = 1 - changed[0, :, 4, 4]
    one, other = (trained.partic_scorer.cells(x) for x in (seen, changed))
    moved = (one - other).abs().amax((0, 1)) > 1e-6
    rows, columns = moved.nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 6, 2, 6)


def test_the_masked_mean_by_hand():
    values = torch.tensor([[[1.0, 10.0], [3.0, 30.0], [1e6, -1e6]]])
    mask = torch.tensor([[True, True, False]])
    assert masked_mean(values, mask).tolist() == [[2.0, 20.0]]


# ---------------------------------------------------------------------------------- the promise


def test_the_first_weight_of_the_info_scorer_reads_every_channel(knowing):
    first = next(knowing.info_scorer.parameters())
    assert first.shape == (256, len(CORE))


def test_scores_come_in_the_order_of_their_names(knowing):
    assert tuple(SCORERS) == Knowing.NAMES
    for position, attribute in enumerate(SCORERS.values()):
        before = knowing(textures(), *question())
        shaken(getattr(knowing, attribute))
        changed = (knowing(textures(), *question()) - before).abs().amax((0, 2, 3)) > 1e-4
        assert changed.nonzero().flatten().tolist() == [position]


# ------------------------------------------------------------------------------ scorers left out


@pytest.mark.parametrize(
    "left_out", [[name] for name in SCORERS] + [["information", "participatory"]]
)
def test_a_scorer_that_is_left_out_answers_even_odds_and_the_others_as_before(trained, left_out):
    heard = [name for name in SCORERS if name not in left_out]
    torch.manual_seed(0)
    fewer = Knowing(QUERY_DIM, scorers=heard)
    torch.manual_seed(0)
    untouched = Knowing(QUERY_DIM).state_dict()
    for name, weight in fewer.state_dict().items():
        assert weight.equal(untouched[name]), "with one seed it starts as beside the others"
    fewer.load_state_dict({name: trained.state_dict()[name] for name in fewer.state_dict()})
    found, expected = (knowing(textures(), *question()) for knowing in (fewer, trained))
    for place, name in enumerate(Knowing.NAMES):
        if name in left_out:
            assert found[:, place].eq(0).all()
            assert not any(SCORERS[name] in key for key in fewer.state_dict())
        else:
            assert found[:, place].equal(expected[:, place])


def test_the_order_in_which_scorers_are_named_does_not_matter():
    assert Knowing(QUERY_DIM, scorers=["participatory", "information"]).scorers == (
        "information", "participatory",
    )  # fmt: skip


@pytest.mark.parametrize("scorers", [[], ["smell"], ["information", "smell"], "information"])
def test_scorers_that_are_none_are_refused(scorers):
    with pytest.raises(ValueError, match="choose one or more of information, perspectival, part"):
        Knowing(QUERY_DIM, scorers=scorers)
