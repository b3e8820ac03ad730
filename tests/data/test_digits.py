"""Canvases are the same for everybody who asks, and every answer is true."""

import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from lightning_arrcoc.data import digits as digits_module
from lightning_arrcoc.data.digit_canvas import (
    COLOURS,
    GAP_PX,
    NO_WARP,
    SPLITS,
    Digit,
    draw_clutter,
    draw_digit,
    load_scans,
    scatter,
)
from lightning_arrcoc.data.digit_families import (
    FAMILIES,
    NEAREST_MARGIN_PX,
    ask_caption,
    ask_colour,
    ask_comparison,
    ask_count,
    ask_place,
    ask_where,
)
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.data.sample import Box
from lightning_arrcoc.relevance import CELL_PX

CANVAS_PX = (200, 100)
property_of = settings(deadline=None, max_examples=40, derandomize=True)


def pixels(sample):
    return np.asarray(sample.images[0])


def assert_same(one, other):
    assert one[1:] == other[1:]  # turns, family, evidence
    np.testing.assert_array_equal(pixels(one), pixels(other))


def at(value, colour, x, y, side=20):
    """A digit around the centre x, y."""
    return Digit(value, colour, Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2))


def seeded(seed=0):
    return np.random.default_rng(seed)


def asked_by(ask, digits, canvas_px=CANVAS_PX, seed=0):
    """Question -> (answer, evidence)."""
    asked = ask(seeded(seed), digits, canvas_px)
    return {turn.question: (turn.answer, evidence) for turn, evidence in asked}


@pytest.fixture
def drawn(monkeypatch):
    """The digits that are painted from here on, their values looked up in scikit-learn's labels."""
    source = load_digits()
    labels = {
        (scan / 16).astype(np.float32).tobytes(): int(label)
        for scan, label in zip(source.images, source.target, strict=True)
    }
    painted = []

    def paint_and_tell(image, scan, digit, warp=NO_WARP):
        painted.append(digit._replace(value=labels[scan.tobytes()]))
        draw_digit(image, scan, digit, warp)

    monkeypatch.setattr(digits_module, "draw_digit", paint_and_tell)
    return painted


# --------------------------------------------------------------------------------------- scans


def test_splits_share_no_scan_and_lose_none():
    scans = {split: {scan.tobytes() for scan in load_scans(split)[0]} for split in SPLITS}
    assert {split: len(unique) for split, unique in scans.items()} == {
        "train": 1297,
        "val": 200,
        "test": 300,
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not scans[one] & scans[other], (one, other)
    everything = {(scan / 16).astype(np.float32).tobytes() for scan in load_digits().images}
    assert set.union(*scans.values()) == everything


@pytest.mark.parametrize("split", SPLITS)
def test_each_split_holds_every_digit_in_equal_proportion(split):
    images, values = load_scans(split)
    assert images.shape[1:] == (8, 8)
    assert images.min() == 0
    assert images.max() == 1
    share = np.bincount(values, minlength=10) / len(values)
    expected = np.bincount(load_digits().target) / 1797
    np.testing.assert_allclose(share, expected, atol=0.005)


# --------------------------------------------------------------------------------- determinism


def test_a_sample_is_the_same_asked_twice_and_from_another_instance():
    one, other = (DigitQuestions("train", 8, augment=True) for _ in range(2))
    for i in (5, 0, 3):
        assert_same(one[i], one[i])
        assert_same(one[i], other[i])


def test_a_sample_does_not_depend_on_how_many_there_are():
    assert_same(DigitQuestions("train", 4)[3], DigitQuestions("train", 4000)[3])


def test_a_sample_is_the_same_in_any_worker():
    here = DigitQuestions("val", 8, augment=True, turns=3)
    there = DataLoader(here, batch_size=2, num_workers=2, collate_fn=list)
    for i, sample in enumerate(itertools.chain.from_iterable(there)):
        assert_same(sample, here[i])
    assert i == 7


@pytest.mark.parametrize("other", [{"seed": 1}, {"split": "val"}])
def test_another_seed_or_split_gives_other_canvases(other):
    plain = DigitQuestions("train", 4)
    changed = DigitQuestions(**{"split": "train", "length": 4, **other})
    assert all(not np.array_equal(pixels(plain[i]), pixels(changed[i])) for i in range(4))
    assert [plain[i].evidence for i in range(4)] != [changed[i].evidence for i in range(4)]


def test_samples_of_one_list_all_differ():
    source = DigitQuestions("train", 12)
    assert len({pixels(source[i]).tobytes() for i in range(12)}) == 12


@pytest.mark.parametrize("index", [-1, 4])
def test_there_is_no_sample_outside_the_list(index):
    source = DigitQuestions("train", 4)
    assert len(source) == 4
    with pytest.raises(IndexError, match=f"sample {index} of 4"):
        source[index]


# ------------------------------------------------------------------------- answers, whole samples


def true_answer(question, drawn, canvas_px):
    """The answer and where it can be read, worked out from what was painted."""
    named = Counter(digit.colour for digit in drawn)

    def of_colour(colour):
        assert named[colour] == 1, f"{colour} names {named[colour]} digits"
        return next(digit for digit in drawn if digit.colour == colour)

    if question == "How many digits are there?":
        return str(len(drawn)), [digit.box for digit in drawn]
    if match := re.fullmatch(r"Which digit is (\w+)\?", question):
        digit = of_colour(match[1])
        return str(digit.value), [digit.box]
    if match := re.fullmatch(r"Is the (\w+) digit greater than the (\w+) one\?", question):
        one, other = of_colour(match[1]), of_colour(match[2])
        assert one.value != other.value
        return "yes" if one.value > other.value else "no", [one.box, other.box]
    match = re.fullmatch(r"Which digit is nearest the (top|bottom) (left|right) corner\?", question)
    corner = (canvas_px[0] * (match[2] == "right"), canvas_px[1] * (match[1] == "bottom"))
    near, *others = sorted(drawn, key=lambda digit: math.dist(digit.centre, corner))
    lead = min(math.dist(digit.centre, corner) for digit in others) - math.dist(near.centre, corner)
    assert lead >= NEAREST_MARGIN_PX
    return str(near.value), [near.box]


@pytest.mark.parametrize("turns", [1, 12])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_is_true_of_what_was_painted(drawn, family, turns):
    source = DigitQuestions("test", 15, families=[family], turns=turns)
    for i in range(len(source)):
        drawn.clear()
        sample = source[i]
        assert sample.family == family
        assert 1 <= len(sample.turns) <= turns
        for turn in sample.turns:
            answer, evidence = true_answer(turn.question, drawn, source.canvas_px)
            assert turn.answer == answer, turn.question
            if turn is sample.turns[0]:
                assert list(sample.evidence) == evidence


def test_families_are_dealt_out_in_turn():
    source = DigitQuestions("train", 8, families=["place", "count"])
    assert [source[i].family for i in range(8)] == ["place", "count"] * 4
    assert {DigitQuestions("train", 4)[i].family for i in range(4)} == set(FAMILIES)


def test_counts_reach_from_three_to_all_digits(drawn):
    source = DigitQuestions("train", 90, families=["count"])
    counted = Counter(source[i].turns[0].answer for i in range(90))
    assert sorted(counted) == ["3", "4", "5", "6", "7", "8"]
    assert min(counted.values()) >= 5  # 15 each is expected


def test_canvases_that_do_not_count_carry_all_digits(drawn):
    source = DigitQuestions("train", 6, digits=5, families=["colour", "place", "comparison"])
    for i in range(6):
        drawn.clear()
        source[i]
        assert len(drawn) == 5


def test_yes_and_no_are_equally_frequent():
    source = DigitQuestions("train", 300, families=["comparison"], canvas_px=(128, 128), digits=3)
    answers = Counter(source[i].turns[0].answer for i in range(300))
    assert answers.keys() == {"yes", "no"}
    assert 120 <= answers["yes"] <= 180  # a standard deviation is 9


def test_more_turns_ask_different_questions_of_all_families():
    sample = DigitQuestions("train", 1, turns=50)[0]
    questions = [turn.question for turn in sample.turns]
    assert len(set(questions)) == len(questions) > 8
    for word in ("is red?", "nearest", "greater", "How many"):
        assert any(word in question for question in questions)


def test_more_digits_than_colours_are_never_asked_about_by_a_shared_colour(drawn):
    source = DigitQuestions(
        "train", 8, digits=12, canvas_px=(480, 160), families=["colour", "comparison"], turns=12
    )
    for i in range(8):
        drawn.clear()
        sample = source[i]
        assert pixels(sample).shape == (160, 480, 3)
        assert len(drawn) == 12
        assert max(Counter(digit.colour for digit in drawn).values()) == 2
        for turn in sample.turns:  # an ambiguous colour fails inside
            assert turn.answer == true_answer(turn.question, drawn, (480, 160))[0]


# ------------------------------------------------------------------------------ answers, by hand


def test_colour_questions_by_hand():
    one, other = at(3, "red", 20, 20), at(7, "blue", 60, 20)
    shared = [at(1, "green", 100, 20), at(2, "green", 140, 20)]
    assert asked_by(ask_colour, [one, *shared, other]) == {
        "Which digit is red?": ("3", (one.box,)),
        "Which digit is blue?": ("7", (other.box,)),
    }


def test_place_questions_by_hand_on_a_wide_canvas():
    # Listed in no order: places are what counts.
    bottom_right, top_left = at(4, "blue", 170, 85), at(1, "red", 20, 20)
    bottom_left, top_right = at(3, "red", 40, 80), at(2, "white", 160, 30)
    digits = [bottom_right, top_left, bottom_left, top_right]
    assert asked_by(ask_place, digits) == {
        "Which digit is nearest the top left corner?": ("1", (top_left.box,)),
        "Which digit is nearest the top right corner?": ("2", (top_right.box,)),
        "Which digit is nearest the bottom left corner?": ("3", (bottom_left.box,)),
        "Which digit is nearest the bottom right corner?": ("4", (bottom_right.box,)),
    }


@pytest.mark.parametrize(("lead", "asked"), [(0, False), (31.9, False), (32.0, True)])
def test_a_corner_without_a_clear_winner_is_not_asked_about(lead, asked):
    digits = [at(1, "red", 30, 0), at(2, "blue", 30 + lead, 0)]
    assert ("Which digit is nearest the top left corner?" in asked_by(ask_place, digits)) == asked


def test_where_questions_by_hand():
    """On 200 x 100 px the middle lines run at 100 and 50; within 8 px of one nothing is asked."""
    top_left, bottom_right = at(1, "red", 30, 30), at(2, "blue", 170, 80)
    on_a_line, beside_it = at(3, "white", 60, 57.9), at(4, "green", 108, 20)
    shared = [at(5, "cyan", 20, 80), at(6, "cyan", 180, 20)]
    assert asked_by(ask_where, [top_left, bottom_right, on_a_line, beside_it, *shared]) == {
        "Where is the red digit?": ("top left", (top_left.box,)),
        "Where is the blue digit?": ("bottom right", (bottom_right.box,)),
        "Where is the green digit?": ("top right", (beside_it.box,)),
    }


@pytest.mark.parametrize(
    "options",
    [
        {"canvas_px": (64, 64), "digits": 5, "digit_px": (8, 12), "jitter": 0.0},
        {"canvas_px": (32, 32), "digits": 1, "families": ["where"], "jitter": 0.0},
        {"canvas_px": (32, 32), "digits": 2, "digit_px": (12, 12), "families": ["place"]},
    ],
)
def test_what_cannot_be_arranged_says_so_instead_of_hanging(options):
    source = DigitQuestions("train", 1, **({"digit_px": (24, 30)} | options))
    with pytest.raises(ValueError, match=r"do not stand apart|allows a '"):
        source[0]


def test_a_seed_below_zero_is_refused():
    with pytest.raises(ValueError, match="seed=-1"):
        DigitQuestions("train", 1, seed=-1)


def test_several_turns_are_dealt_from_the_families_in_turn():
    families = ["place", "comparison", "count", "colour", "caption", "where"]
    source = DigitQuestions("train", 12, families=families, turns=6)
    for index in range(12):
        starts = [turn.question.split()[0] for turn in source[index].turns]
        assert sorted(starts) == ["Describe", "How", "Is", "Where", "Which", "Which"]
        assert len({turn.question for turn in source[index].turns}) == 6


def test_a_digit_by_itself_is_nearest_every_corner():
    questions = asked_by(ask_place, [at(5, "red", 30, 30)])
    assert len(questions) == 4
    assert {answer for answer, _ in questions.values()} == {"5"}


def test_comparison_by_hand_in_both_directions():
    small, great = at(2, "red", 20, 20), at(9, "blue", 60, 20)
    both = {}
    for seed in range(20):
        both |= asked_by(ask_comparison, [small, great], seed=seed)
    assert both == {
        "Is the blue digit greater than the red one?": ("yes", (great.box, small.box)),
        "Is the red digit greater than the blue one?": ("no", (small.box, great.box)),
    }


def test_equal_digits_and_shared_colours_are_not_compared():
    equal = [at(4, "red", 20, 20), at(4, "blue", 60, 20)]
    shared = [at(1, "green", 20, 20), at(2, "green", 60, 20), at(3, "red", 90, 20)]
    for seed in range(10):
        assert not asked_by(ask_comparison, equal, seed=seed)
        assert not asked_by(ask_comparison, shared, seed=seed)


def test_each_digit_is_compared_at_most_once():
    digits = [at(value, colour, 0, 0) for value, colour in enumerate(COLOURS)]
    for seed in range(10):
        questions = asked_by(ask_comparison, digits, seed=seed)
        assert len(questions) == 4
        named = re.findall("|".join(COLOURS), " ".join(questions))
        assert sorted(named) == sorted(COLOURS)


def test_counting_by_hand():
    digits = [at(4, "red", 20, 20), at(4, "red", 60, 20), at(1, "blue", 90, 20)]
    boxes = tuple(digit.box for digit in digits)
    assert asked_by(ask_count, digits) == {"How many digits are there?": ("3", boxes)}


def test_a_caption_names_each_digit_in_the_palettes_order():
    blue, red, *shared = (
        at(7, "blue", 20, 20),
        at(3, "red", 60, 20),
        at(1, "cyan", 90, 20),
        at(2, "cyan", 120, 20),
    )
    assert asked_by(ask_caption, [blue, red, *shared]) == {
        "Describe the image.": ("red3 blue7", (red.box, blue.box))
    }
    assert not asked_by(ask_caption, shared)


# -------------------------------------------------------------------------------------- places


@st.composite
def arrangements(draw):
    """Arguments of `scatter` that leave ample room."""
    canvas_px = (draw(st.integers(60, 420)), draw(st.integers(60, 420)))
    smallest = draw(st.integers(8, 36))
    digit_px = (smallest, draw(st.integers(smallest, 40)))
    most = int(0.2 * canvas_px[0] * canvas_px[1] / (digit_px[1] + GAP_PX) ** 2)
    number = draw(st.integers(1, max(1, min(most, 12))))
    return number, canvas_px, digit_px, draw(st.sampled_from([0.0, 0.5, 1.0]))


@given(arrangements(), st.integers(0, 2**31))
@property_of
def test_digits_keep_apart_inside_the_canvas_in_the_sizes_asked_for(arrangement, seed):
    number, (width, height), (smallest, largest), _ = arrangement
    boxes = scatter(seeded(seed), *arrangement)
    assert len(boxes) == number
    taken = np.zeros((height, width), dtype=int)
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert right - left == bottom - top
        assert smallest <= right - left <= largest
        # A gap to the right and below keeps both sides of any pair apart.
        taken[top : bottom + GAP_PX, left : right + GAP_PX] += 1
    assert taken.max() == 1


def boxes_with(jitter, digit_px=(24, 32)):
    return [
        box for seed in range(40) for box in scatter(seeded(seed), 8, (384, 256), digit_px, jitter)
    ]


def off_centre(boxes):
    """How far the middle of each box lies from the middle of its cell, in both directions."""
    centres = np.array([Digit(0, "red", box).centre for box in boxes])
    return np.abs(centres % CELL_PX - CELL_PX / 2)


def test_without_jitter_digits_stand_on_the_middle_of_cells():
    boxes = boxes_with(jitter=0)
    assert off_centre(boxes).max() <= 0.5  # whole pixels
    assert len({(left // CELL_PX, top // CELL_PX) for left, top, *_ in boxes}) > 75  # of 96 cells


def test_half_a_jitter_stays_within_half_of_the_cell():
    assert 6 < off_centre(boxes_with(jitter=0.5)).max() <= 8.5


def test_full_jitter_places_digits_anywhere():
    boxes = boxes_with(jitter=1, digit_px=(24, 36))
    assert {left % CELL_PX for left, *_ in boxes} == set(range(CELL_PX))
    assert {top % CELL_PX for _, top, *_ in boxes} == set(range(CELL_PX))
    assert {right - left for left, _, right, _ in boxes} == set(range(24, 37))
    assert min(left for left, *_ in boxes) == 0
    assert max(bottom for *_, bottom in boxes) == 256


# ------------------------------------------------------------------------------------- drawing


def test_a_scan_is_painted_upright_to_the_size_of_its_box():
    scan = load_scans("train")[0][0]
    canvas = Image.new("RGB", (60, 80))
    draw_digit(canvas, scan, Digit(0, "white", Box(10, 20, 50, 60)))
    ink = np.asarray(canvas, dtype=float)[..., 0]
    expected = np.zeros((80, 60))
    expected[20:60, 10:50] = ndimage.zoom(scan, 5, order=1, mode="grid-constant", grid_mode=True)

    def likeness(other):
        return np.corrcoef(ink.ravel(), other.ravel())[0, 1]

    assert likeness(expected) > 0.97
    assert likeness(expected[:, ::-1]) < 0.9
    assert ink[:20].max() == ink[60:].max() == ink[:, :10].max() == ink[:, 50:].max() == 0
    assert ink.max() > 0.95 * max(COLOURS["white"])


@pytest.mark.parametrize("augment", [False, True])
def test_every_digit_shows_its_own_colour(drawn, augment):
    source = DigitQuestions("train", 6, families=["colour"], augment=augment)
    names, palette = list(COLOURS), np.array(list(COLOURS.values()))
    for i in range(6):
        drawn.clear()
        canvas = pixels(source[i]).astype(int)
        for digit in drawn:
            left, top, right, bottom = digit.box
            shown = canvas[top:bottom, left:right].reshape(-1, 1, 3)
            nearest = np.abs(shown - palette).sum(-1).min(0)
            assert names[nearest.argmin()] == digit.colour
            assert nearest.min() < 60


def test_no_clutter_is_as_bright_as_a_digit():
    faintest_digit = min(max(colour) for colour in COLOURS.values())
    brightest = [np.asarray(draw_clutter(seeded(i), (384, 384))).max() for i in range(40)]
    assert max(brightest) < 0.7 * faintest_digit
    assert min(brightest) > 60  # there is clutter on the ground


def test_clutter_differs_from_canvas_to_canvas_and_fills_its_size():
    one, other = (draw_clutter(seeded(i), (96, 64)) for i in range(2))
    assert one.size == other.size == (96, 64)
    assert one.mode == "RGB"
    assert one.tobytes() != other.tobytes()


def test_augmentation_repaints_the_digits_and_changes_nothing_else(drawn):
    plain, augmented = (DigitQuestions("train", 4, augment=on) for on in (False, True))
    for i in range(4):
        drawn.clear()
        one = plain[i]
        digits = list(drawn)
        other = augmented[i]
        assert one[1:] == other[1:]
        assert drawn == digits * 2
        differs = (pixels(one) != pixels(other)).any(-1)
        for left, top, right, bottom in (digit.box for digit in digits):
            assert differs[top:bottom, left:right].any()
            differs[top:bottom, left:right] = False
        assert not differs.any()


# ----------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "dev"}, "split='dev'; choose one of train, val, test"),
        ({"length": 0}, "length=0, .* must be >= 1"),
        ({"digits": 0}, "digits=0, .* must be >= 1"),
        ({"turns": 0}, "turns=0: each must be >= 1"),
        ({"digit_px": (4, 20)}, "8 <= smallest <= largest"),
        ({"digit_px": (30, 20)}, "8 <= smallest <= largest"),
        ({"digit_px": (24, 90), "canvas_px": (400, 80)}, "the shorter side of the canvas"),
        ({"canvas_px": (0, 384)}, "on canvas_px="),
        ({"jitter": -0.1}, r"jitter=-0.1; expected 0 \(on the cells\) to 1"),
        ({"jitter": 1.5}, "jitter=1.5"),
        ({"jitter": float("nan")}, "jitter=nan"),
        ({"families": []}, "choose from colour, place, comparison, count"),
        ({"families": ["colour", "smell"]}, "families=.*smell.*choose from colour"),
        ({"digits": 50}, "50 digits of up to 36 px fill .* stay below 40 %"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_wrong_argument_is_refused_with_what_is_expected(wrong, message):
    with pytest.raises(ValueError, match=message):
        DigitQuestions(**{"split": "train", "length": 4, **wrong})
