"""Accuracy by the consensus of ten people."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lightning_arrcoc.metrics.answer_metric import AnswerMetric

ENOUGH = 3  # people who gave an answer before it counts fully

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NUMBERS = {word: str(number) for number, word in enumerate(DIGITS)} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
POINT_NOT_IN_A_NUMBER = re.compile(r"\.(?!\d)")
COMMA_IN_A_NUMBER = re.compile(r"\d,\d")

# The contractions that the official evaluation restores: those of one apostrophe where it is
# missing, the others from the spellings named.
ONE_APOSTROPHE = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock
oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll someone's
something'd something'll that's there'd there're there's they'd they'll they're they've 'twas
wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll
who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
TWO_APOSTROPHES = {
    "couldn't've": "couldn'tve couldnt've", "hadn't've": "hadnt've hadn'tve",
    "he'd've": "hed've he'dve", "it'd've": "itd've it'dve",
    "mightn't've": "mightnt've mightn'tve", "'ow's'at": "ow's'at 'ows'at 'ow'sat",
    "she'd've": "shed've she'dve", "shouldn't've": "shouldnt've shouldn'tve",
    "somebody'd've": "somebodyd've somebody'dve", "someone'd've": "someoned've someone'dve",
    "something'd've": "somethingd've something'dve", "there'd've": "thered've there'dve",
    "they'd've": "theyd've they'dve", "we'd've": "wed've we'dve", "who'd've": "whod've who'dve",
    "wouldn't've": "wouldnt've wouldn'tve", "y'all'll": "yall'll y'allll",
    "y'all'd've": "yall'd've y'alld've y'all'dve", "you'd've": "youd've you'dve",
    "somebodyd": "somebody'd",  # official, though it mends the other way
}  # fmt: skip
CONTRACTIONS = {word.replace("'", ""): word for word in ONE_APOSTROPHE.split()} | {
    found: word for word, mended in TWO_APOSTROPHES.items() for found in mended.split()
}


class VqaAccuracy(AnswerMetric):
    """The official accuracy of VQA v2: full marks for what three of the others said.

    Each of the people is left out once; an answer is worth a third for every one of the others who
    gave it, at most 1; the mean over the people is its score. So with ten answers one that a
    single person gave is worth 0.3, two 0.6, three 0.9. Where people disagree, punctuation, case,
    articles, number words and missing apostrophes of all answers are evened out first; where all
    said the same, only that counts, to the letter.

    A question with a single accepted answer is taken as one on which all ten agreed: the formula
    would give it 0. Departure: any number of full stops is removed, not the first 32.

    Source: S. Antol et al., "VQA: Visual Question Answering", ICCV 2015, section 3 ("Testing");
    Y. Goyal et al., "Making the V in VQA Matter", CVPR 2017; as in their evaluation code
    (GT-Vision-Lab/VQA, ``vqaEval.py``, 2021).
    """

    def score(self, prediction: str, accepted: Sequence[str]) -> float:
        answers = [on_one_line(answer) for answer in accepted]
        said = on_one_line(prediction)
        if len(answers) == 1:
            return float(said == answers[0])
        if len(set(answers)) > 1:
            answers, said = [evened(answer) for answer in answers], evened(said)
        agreeing = answers.count(said)
        others = (agreeing - (answer == said) for answer in answers)
        return sum(min(1.0, count / ENOUGH) for count in others) / len(answers)


def on_one_line(text: str) -> str:
    """Line breaks and tabs as blanks, none at the ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def evened(text: str) -> str:
    """An answer without what people write in different ways."""
    return _words_evened(_without_punctuation(text))


def _without_punctuation(text: str) -> str:
    """Marks beside a blank vanish, others become one; in a text like "1,000" all of them vanish."""
    vanish = COMMA_IN_A_NUMBER.search(text) is not None
    cleaned = text
    for mark in PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if vanish or beside_blank else " ")
    return POINT_NOT_IN_A_NUMBER.sub("", cleaned)


def _words_evened(text: str) -> str:
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
