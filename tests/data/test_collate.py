"""A batch holds the whole conversation; a prompt stops before the last answer."""

import pytest
from PIL import Image

from lightning_arrcoc.data.collate import Collator, conversation
from lightning_arrcoc.data.sample import Sample, Turn

PICTURE = Image.new("RGB", (32, 32))
ONE_TURN = Sample((PICTURE,), (Turn("What?", "7"),), family="colour")
TWO_TURNS = Sample((PICTURE, PICTURE), (Turn("Where?", "left"), Turn("More?", "no")), "place")


def as_it_is(conversations):
    """A processor that encodes nothing."""
    return {"conversations": list(conversations)}


def test_inputs_hold_every_answer_and_prompts_all_but_the_last():
    batch = Collator(as_it_is, for_measuring=True)([ONE_TURN, TWO_TURNS])
    assert batch["inputs"]["conversations"] == [
        {"images": (PICTURE,), "questions": ["What?"], "answers": ["7"]},
        {
            "images": (PICTURE, PICTURE),
            "questions": ["Where?", "More?"],
            "answers": ["left", "no"],
        },
    ]
    assert batch["prompts"]["conversations"] == [
        {"images": (PICTURE,), "questions": ["What?"], "answers": []},
        {"images": (PICTURE, PICTURE), "questions": ["Where?", "More?"], "answers": ["left"]},
    ]


def test_the_last_answers_and_the_families_stand_beside():
    batch = Collator(as_it_is, for_measuring=True)([ONE_TURN, TWO_TURNS])
    assert batch["answers"] == ["7", "no"]
    assert batch["families"] == ["colour", "place"]


def test_every_accepted_answer_of_the_last_question_stands_beside():
    voted = Sample((PICTURE,), (Turn("?", "a", ("z",)), Turn("What?", "a", ("a", "b", "a"))))
    batch = Collator(as_it_is, for_measuring=True)([ONE_TURN, voted])
    assert batch["accepted"] == [("7",), ("a", "b", "a")]
    assert batch["inputs"]["conversations"][1]["answers"] == ["a", "a"]


def test_training_prepares_no_prompts_and_encodes_once():
    calls = []

    def counting(conversations):
        calls.append(conversations)
        return as_it_is(conversations)

    batch = Collator(counting, for_measuring=False)([ONE_TURN, TWO_TURNS])
    assert batch["prompts"] == {}
    assert len(calls) == 1
    assert len(batch["inputs"]["conversations"]) == 2


@pytest.mark.parametrize(("answered", "answers"), [(True, ["left", "no"]), (False, ["left"])])
def test_a_conversation_keeps_the_order_of_turns(answered, answers):
    told = conversation(TWO_TURNS, answered=answered)
    assert told["questions"] == ["Where?", "More?"]
    assert told["answers"] == answers


def test_a_batch_tells_how_many_images_each_sample_shows():
    nothing_shown = Sample((), (Turn("Who?", "I"),))
    batch = Collator(as_it_is, for_measuring=False)([TWO_TURNS, nothing_shown, ONE_TURN])
    assert batch["images"] == [2, 0, 1]


@pytest.mark.parametrize(("pack", "expected"), [(True, {"pack": True}), (False, {})])
def test_turns_are_packed_for_training_where_asked(pack, expected):
    told = []

    def processor(conversations, **options):
        told.append(options)
        return {}

    Collator(processor, for_measuring=False, pack=pack)([TWO_TURNS])
    assert told == [expected]
