"""The HTML of an answer: sentences, pictures, probabilities, and nothing unescaped."""

import re
from dataclasses import replace

import numpy as np
import pytest
from digits_samples import trained_digits

from inoculate.core.threat import Threat
from inoculate.playground.play import open_session
from inoculate.playground.render import enlargement, eps_words, render_answer, render_refusal, sentence
from inoculate.playground.session import Outcome


def outcome(clean, attacked, truth=0, **others) -> Outcome:
    image = np.zeros((2, 2, 1), np.float32)
    values = (np.array(each, np.float32) for each in (clean, attacked))
    return Outcome("net", ("cat", "dog", "<b>"), truth, *values, image, image, 0.1, **others)


@pytest.mark.parametrize(
    ("clean", "attacked", "truth", "words"),
    [
        ((0.9, 0.1, 0), (0.25, 0.75, 0), 0, "cat (90.0 %) becomes dog (75.0 %)."),
        ((0.9, 0.1, 0), (0.8, 0.2, 0), 0, "Still cat (80.0 %), before the attack 90.0 %."),
        ((.9, .1, 0), (.8, .2, 0), 1, "Wrong without any attack: cat (90.0 %) instead of dog; attacked cat (80.0 %)."),
        ((1, 0, 0), (0.9999, 0.0001, 0), 0, "Still cat (> 99.9 %), before the attack 100 %."),
    ],
)  # fmt: skip
def test_a_sentence_says_what_the_attack_does(clean, attacked, truth, words):
    assert sentence(outcome(clean, attacked, truth)) == words


def test_pictures_have_alternative_texts_and_a_place_while_they_are_computed(session):
    first, complete = session.stages(session.picture(1), "fgsm", 0.1)
    early, late, without = render_answer(first), render_answer(complete), render_answer(first, attributions=False)
    assert early.count("being computed") == 4
    assert "being computed" not in late
    assert (early.count("<img"), late.count("<img"), without.count("<img")) == (6, 14, 6)
    assert all(len(alt) > 15 for alt in re.findall(r'alt="([^"]*)"', late))
    assert set(re.findall(r'src="(.{22})', late)) == {"data:image/png;base64,"}
    assert "FGSM, L∞ eps 25.5/255 on image 1 of digits, labelled" in late
    assert "The image crafted before hardening is taken for" in late
    assert not re.findall(r'(?:href|src)="(?!data:)', late)


def test_nothing_is_shown_unescaped(digits):
    hostile = tuple(f"<script>alert({n})</script>" for n in range(10))
    data = replace(digits, classes=hostile, name="<i>")
    session = open_session(trained_digits()[0], data, ["fgsm"])
    html = render_answer(session.answer(session.picture(0), "fgsm", 8 / 255))
    assert "<script" not in html
    assert "<i>" not in html
    assert "&lt;script&gt;" in html
    assert render_refusal("<b>\n two") == '<p class="refusal" role="alert">&lt;b&gt; two</p>'


@pytest.mark.parametrize(
    ("threat", "words"),
    [(Threat(eps=8 / 255), "8/255"), (Threat(eps=0.1), "25.5/255"), (Threat("l2", 0.5), "0.5"), (Threat("l0", 3), "3")],
)
def test_eps_is_said_as_people_say_it(threat, words):
    assert eps_words(threat) == words


@pytest.mark.parametrize(("largest", "times"), [(0.0, 1), (1.0, 1), (0.5, 1), (0.1, 4), (8 / 255, 16), (1e-6, 256)])
def test_a_change_is_enlarged_until_it_is_seen(largest, times):
    assert enlargement(np.array([-largest, largest / 2], np.float32)) == times
