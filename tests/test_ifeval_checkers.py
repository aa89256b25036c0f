"""IFEval's checkers: each kind says yes and no, and they agree with lm-eval's."""

import random
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm_eval[ifeval] is not installed: pip install 'isheep[eval]'")

from isheep.benchmarks import ifeval  # noqa: E402
from isheep.benchmarks.ifeval import Item, check_answer, variants  # noqa: E402
from isheep.benchmarks.support.ifeval_checks import linear_check  # noqa: E402
from tests.helpers.ifeval_answers import require_checkers  # noqa: E402


@pytest.fixture(autouse=True)
def _there() -> None:
    require_checkers()


# One item of each kind: its settings, an answer that follows it and one that does not.
LESS, MORE = {"relation": "less than"}, {"relation": "at least"}
KINDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "keywords:existence": ({"keywords": ["wool", "grass"]}, "Wool comes from GRASS.", "Wool comes from sheep."),
    "keywords:frequency": ({"keyword": "lamb", "frequency": 2, **MORE}, "A lamb, a lamb.", "A lamb."),
    "keywords:forbidden_words": ({"forbidden_words": ["wolf"]}, "No wolves here.", "No wolf here."),
    "keywords:letter_frequency": ({"letter": "Z", "let_frequency": 2, "let_relation": "less than"}, "Zoo", "Zigzag"),
    "language:response_language": (
        {"language": "de"}, "Das Schaf steht auf der Wiese und frisst das grüne Gras.",
        "The sheep stands in the meadow and eats the green grass.",
    ),
    "length_constraints:number_sentences": ({"num_sentences": 3, **LESS}, "One. Two, Mr. Ram.", "One. Two. Three."),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "One\n***\nTwo", "One\n\nTwo"),
    "length_constraints:number_words": ({"num_words": 4, **MORE}, "one two three four", "one two three"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"}, "First.\n\nThen, more.", "First.\n\nMore then."
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] at [place]", "[name] at home"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Bye.\nP.S. Baa.", "Bye. PS Baa."),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* one\n- two", "* one\n* two\n* three"),
    "detectable_format:constrained_response": ({}, "Well: My answer is no.", "No."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*one* and *two*", "*one* and two"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Part", "num_sections": 2}, "Part 1\na\nPart 2\nb", "Part 1\na"
    ),
    "detectable_format:json_format": ({}, '```json\n{"sheep": 1}\n```', "{sheep: 1}"),
    "detectable_format:title": ({}, "<<Wool>>\nText", "<< >>\nText"),
    "combination:two_responses": ({}, "One\n******\nTwo", "One\n******\nOne"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say baa."}, "say baa. Baa.", "Baa. Say baa."),
    "startend:end_checker": ({"end_phrase": "Any questions?"}, "Baa. Any questions?", "Any questions? Baa."),
    "startend:quotation": ({}, '"Baa."', '"Baa.'),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "less than"}, "ONE word", "TWO WORDS"
    ),
    "change_case:english_capital": ({}, "THE SHEEP IS IN THE MEADOW AND EATS GRASS", "The sheep is in the meadow."),
    "change_case:english_lowercase": ({}, "the sheep is in the meadow and eats grass", "The sheep is in the meadow."),
    "punctuation:no_comma": ({}, "One and two.", "One, two."),
}  # fmt: skip


def item(kind: str, **settings: Any) -> Item:
    return Item(key=1, prompt="Say baa.", instruction_id_list=[kind], kwargs=[settings])


def test_there_is_a_case_for_every_kind() -> None:
    assert set(KINDS) == set(require_checkers())


@pytest.mark.parametrize("kind", KINDS)
def test_every_checker_says_yes_and_no(kind: str) -> None:
    settings, followed, not_followed = KINDS[kind]
    entry = item(kind, **settings)
    assert check_answer(entry, followed, require_checkers()) == ([True], [True])
    assert check_answer(entry, not_followed, require_checkers()).strict == [False]
    assert check_answer(entry, " \n", require_checkers()) == ([False], [False])  # an empty answer follows nothing


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("punctuation:no_comma", "Sure, here it is:\nOne and two."),
        ("punctuation:no_comma", "One and two.\nThat was it, friend."),
        ("punctuation:no_comma", "Sure, here:\nOne and two.\nThat was it, friend."),
        ("detectable_format:json_format", '**{"sheep": 1}**'),
        ("startend:quotation", 'Sure:\n*"Baa."*\nBye'),
    ],
)
def test_the_loose_reading_forgives(kind: str, answer: str) -> None:
    assert check_answer(item(kind), answer, require_checkers()) == ([False], [True])


def test_variants() -> None:
    assert variants("a\n *b*\nc") == ["a\n *b*\nc", "a\n b\nc", "*b*\nc", "b\nc", "a\n *b*", "a\n b", "*b*", "b"]


def test_brackets_without_end_are_no_json_and_no_error() -> None:
    for text in ("[" * 5000, '{"a":' * 5000):
        assert check_answer(item("detectable_format:json_format"), text, require_checkers()) == ([False], [False])


@pytest.mark.parametrize("sign", ["#", "!"])
def test_a_sign_is_counted_and_no_letter_in_its_place(sign: str) -> None:
    subset = {"letter": sign, "let_frequency": 2}
    for text, number in ((f"{sign} Baa {sign}", 2), (f"Baa {sign}", 1)):
        for relation, met in (("at least", number >= 2), ("less than", number < 2)):
            entry = item("keywords:letter_frequency", let_relation=relation, **subset)
            assert check_answer(entry, text, require_checkers()).strict == [met]


def test_a_guess_of_the_language_is_the_same_each_time() -> None:
    """Texts of one word, of which langdetect says now this, now that."""
    texts = ["banana alpha", "no mi", "sim sala", "Alter Hut", "la le lu", "tango mango"]
    entry = item("language:response_language", language="it")
    assert (
        len({tuple(check_answer(entry, text, require_checkers()).strict[0] for text in texts) for _ in range(8)}) == 1
    )


LINEAR_KINDS = {
    "detectable_content:number_placeholders": [{"num_placeholders": n} for n in (1, 2, 3)],
    "detectable_format:number_bullet_lists": [{"num_bullets": n} for n in (1, 2, 3)],
    "detectable_format:title": [{}],
    "detectable_content:postscript": [{"postscript_marker": marker} for marker in ("P.S.", "P.P.S", "N.B. ")],
}


@pytest.mark.parametrize("kind", LINEAR_KINDS)
def test_checks_of_our_own_agree_with_lm_evals(kind: str) -> None:
    """Random texts of the marks that the checks look for."""
    registry, rng = ifeval.checkers(), random.Random(kind)
    marks = [
        "[",
        "]",
        "*",
        "-",
        " ",
        "\n",
        "\r",
        "\t",
        "\x0b",
        "a",
        "<",
        "<<",
        ">>",
        ">",
        "P.",
        "S.",
        "p. ",
        "s",
        "N.B.",
    ]
    verdicts = set()
    for settings in LINEAR_KINDS[kind]:
        checker = registry[kind](kind)
        checker.build_description(**settings)
        own = linear_check(kind, settings)
        for _ in range(3000):
            text = "".join(rng.choices(marks, k=rng.randrange(14)))
            verdicts.add(own(text))
            assert own(text) == bool(checker.check_following(text)), repr(text)
    assert verdicts == {True, False}
