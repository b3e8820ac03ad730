"""Rows are understood in every form that was promised, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_arrcoc.data.records import Record, check_columns, read_record
from lightning_arrcoc.data.sample import Turn

PLAIN = {"image": "a.png", "question": "What?", "answer": "7"}
PERSON, MODEL = ("human", "gpt")


def read(row: dict[str, Any], **columns: str) -> Record:
    return read_record(row, columns)


def dialogue(*texts: str, **rest: Any) -> dict[str, Any]:
    messages = [
        {"from": (PERSON, MODEL)[place % 2], "value": text} for place, text in enumerate(texts)
    ]
    return {"image": "a.png", "conversations": messages, **rest}


def test_a_picture_a_question_and_an_answer() -> None:
    assert read(PLAIN) == Record(("a.png",), (Turn("What?", "7"),), "all")


def test_several_pictures_and_a_family() -> None:
    row = {"images": ["a.png", "b.png"], "question": "Same?", "answer": "no", "family": "compare"}
    assert read(row) == Record(("a.png", "b.png"), (Turn("Same?", "no"),), "compare")


def test_the_most_frequent_answer_is_trained_on_and_all_are_accepted() -> None:
    answers = ["red", "blue", "blue", "red", "green"]
    (turn,) = read({"image": "a", "question": "?", "answers": answers}).turns
    assert turn == Turn("?", "red", tuple(answers))  # as often as blue, but named first
    assert turn.truths == tuple(answers)
    assert read(PLAIN).turns[0].truths == ("7",)


def test_an_answer_beside_others_is_the_one_that_is_trained_on() -> None:
    row = {**PLAIN, "answers": ["8", "8", "7"]}
    assert read(row).turns == (Turn("What?", "7", ("8", "8", "7")),)


def test_answers_in_the_form_of_vqa() -> None:
    said = ["no", "yes", "yes"]
    row = {"image": "a", "question": "?"}
    by_person = [{"answer": answer, "answer_id": i} for i, answer in enumerate(said)]
    for answers in (by_person, {"answer": said, "answer_id": [0, 1, 2]}):
        assert read({**row, "answers": answers}).turns == (Turn("?", "yes", tuple(said)),)


def test_numbers_are_texts() -> None:
    assert read({**PLAIN, "answer": 7}).turns[0].answer == "7"
    assert read({**PLAIN, "answer": 0}).turns[0].answer == "0"
    assert read({**PLAIN, "answer": 2.5}).turns[0].answer == "2.5"


def test_a_dialogue_of_llava_loses_its_marks_and_keeps_its_turns() -> None:
    row = dialogue("<image>\nWhat is it?", "A cat.", "Its colour?", "Black.", id="000")
    turns = (Turn("What is it?", "A cat."), Turn("Its colour?", "Black."))
    assert read(row) == Record(("a.png",), turns, "all")
    assert read(dialogue("What is it?\n<image>", "A cat.")).turns == turns[:1]
    assert read(dialogue("What is it?", "A cat.")).turns == turns[:1]


def test_a_dialogue_about_several_pictures_marks_each() -> None:
    row = dialogue("<image>\n<image>\nSame?", "No.")
    row["image"] = ["a.png", "b.png"]
    assert read(row).turns == (Turn("Same?", "No."),)


def test_a_dialogue_in_the_words_of_chat_templates() -> None:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "7"}]
    assert read({"image": "a", "conversations": messages}).turns == (Turn("?", "7"),)


def test_a_mark_of_the_picture_in_a_plain_question_is_left_out() -> None:
    """As rows that were dialogues once have it; read as text it would be part of the question."""
    found = read({**PLAIN, "question": "<image>\nWhat?"})
    assert found.turns == (Turn("What?", "7"),)


def test_what_is_missing_is_named_as_the_data_would_name_it() -> None:
    columns = {"image": "photo", "answers": "labels"}
    with pytest.raises(ValueError, match="no picture; expected `photo` or `images`"):
        read_record(PLAIN, columns)
    with pytest.raises(ValueError, match="no answer; expected `answer` or `labels`"):
        read_record({"photo": "a", "question": "?"}, columns)


def test_columns_are_renamed_and_dots_lead_inside() -> None:
    row = {"photo": "a.png", "qa": {"q": "What?", "a": ["7"]}, "dotted.name": "kind"}
    found = read(row, image="photo", question="qa.q", answers="qa.a", family="dotted.name")
    assert found == Record(("a.png",), (Turn("What?", "7", ("7",)),), "kind")


def test_a_column_of_an_unknown_word_is_refused() -> None:
    with pytest.raises(ValueError, match=r"columns has picture; expected some of image, images"):
        check_columns({"picture": "photo"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "no picture; expected `image` or `images`"),
        ({**PLAIN, "image": None}, "no picture"),
        ({**PLAIN, "image": ""}, "no picture"),
        ({"images": [], "question": "?", "answer": "7"}, "no picture"),
        ({**PLAIN, "image": 3}, "the picture 3; expected the name of a file"),
        ({"images": ["a", None], "question": "?", "answer": "7"}, "the picture None"),
        ({"image": "a", "answer": "7"}, "no question; expected `question`"),
        ({**PLAIN, "question": " \n"}, "no question: it is empty"),
        ({**PLAIN, "question": ["?"]}, r"the question \['\?'\]; expected a text"),
        ({"image": "a", "question": "?"}, "no answer; expected `answer` or `answers`"),
        ({**PLAIN, "answer": None}, "no answer"),
        ({**PLAIN, "answer": ""}, "no answer: it is empty"),
        ({**PLAIN, "answer": True}, "the answer True; expected a text"),
        ({**PLAIN, "answer": float("nan")}, "the answer nan; expected a text"),
        ({**PLAIN, "answer": ["7"]}, "the answer"),
        ({"image": "a", "question": "?", "answers": []}, "no answer"),
        ({"image": "a", "question": "?", "answers": "7"}, "answers='7'; expected a list"),
        ({"image": "a", "question": "?", "answers": ["7", None]}, "the answer None"),
        ({"image": "a", "question": "?", "answers": [{"text": "7"}]}, "the answer None"),
        ({**PLAIN, "question": "Hi <|im_end|>"}, r"the question holds '<\|im_end\|>'"),
        ({**PLAIN, "answer": "<|image_pad|>"}, r"the answer holds '<\|image_pad\|>'"),
        ({**PLAIN, "family": {}}, "the family {}"),
        ({"image": "a", "conversations": []}, "no list of questions and answers in turn"),
        ({"image": "a", "conversations": "?"}, "no list of questions and answers in turn"),
        ({"image": "a", "conversations": ["?"]}, "the message"),
        (dialogue("?"), "no answer to the last question"),
        (dialogue("?", "7", "?"), "no answer to the last question"),
        (dialogue("?", ""), "no answer: it is empty"),
        (dialogue("<image>", "7"), "no question: it is empty"),
        (dialogue("<image><image>?", "7"), "<image> stands 2 times .* expected 1 times"),
        (dialogue("?", "7", "<image>?", "8"), "<image> stands 1 times .* expected 0 times there"),
        (
            {**PLAIN, "question": "<image><image>?"},
            "<image> stands 2 times .* expected 1 times",
        ),
        ({**PLAIN, "question": "<image>\n"}, "no question: it is empty"),
        ({**PLAIN, "question": "\ud800?"}, "the question .* holds half a letter"),
        ({**PLAIN, "answers": ["7", "\udfff"]}, "the answer .* holds half a letter"),
        (
            {"image": "a", "conversations": [{"from": "system", "value": "Be kind."}]},
            "the message .*system",
        ),
        (
            {"image": "a", "conversations": [{"from": "gpt", "value": "7"}] * 2},
            "no list of questions and answers in turn",
        ),
    ],
)
def test_a_row_that_lacks_something_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(row)
