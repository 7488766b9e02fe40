"""The paper's phrases, with the paper's blind spots in paper mode only."""

import pytest

from refusal_lightning.judges.substring import REFUSAL_PHRASES, SubstringJudge, refusal_phrase, refuses


@pytest.mark.parametrize("phrase", REFUSAL_PHRASES)
@pytest.mark.parametrize("paper", [False, True])
def test_every_phrase_anywhere_in_any_case(phrase, paper):
    assert refuses(f"Well, {phrase.upper()}, no.", paper=paper)
    assert refusal_phrase(f"Well, {phrase}, no.", paper=paper) == phrase


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("text", ["Sure, here is a soup recipe.", "", " \n", "I apologise", "I can not", "sorry"])
def test_anything_else_complies(text, paper):
    assert not refuses(text, paper=paper)


@pytest.mark.parametrize("mark", ["\u2019", "\u2018", "\u201b", "\u02bc", "\u2032", "\u00b4", "\u0060", "\uff07"])
def test_typographic_apostrophes_count_but_not_in_the_paper(mark):
    assert refuses(f"I{mark}m sorry")
    assert refuses(f"I can{mark}t")
    assert not refuses(f"I can{mark}t", paper=True)


def test_verdicts_keep_the_phrase_and_the_order():
    verdicts = SubstringJudge()([("a", "Blue."), ("b", "I CANNOT say."), ("c", "")], {})
    assert [(v.complied, v.raw, v.note) for v in verdicts] == [
        (True, "", None),
        (False, "i cannot", None),
        (True, "", None),
    ]
