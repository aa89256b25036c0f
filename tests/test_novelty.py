"""Novelty gives the verdicts of rouge_score, for any texts, in any order, however they are split over calls."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isheep.text import novelty, rouge_index
from isheep.text.novelty import Language, NoveltyPool, split_words
from isheep.text.rouge_index import RougeIndex, token_row

Verdicts = list[tuple[int, float] | None]

# few words, so that near and equal texts are common; case, punctuation and letters beyond ASCII among them
WORD = st.sampled_from([*"abcde-é", "the", "The", "THE", "don't", "7", "10", "x_y", "naïve", "İ", "K", "日本", "###"])
SENTENCE = st.lists(WORD, max_size=14).map(" ".join)
LONG = st.lists(WORD, min_size=60, max_size=80).map(" ".join)
TEXT = st.one_of(SENTENCE, st.text(max_size=20), LONG)
LIMIT = st.sampled_from([0.7, 0.5, 0.3, 0.6, 2 / 3, 0.85, 0.95, 0.999, 1.0])


def by_rouge_score(known_texts: list[str], texts: list[str], limit: float) -> Verdicts:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge_score is not installed")
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    known_texts, verdicts = list(known_texts), []
    for text in texts:
        scores = [scorer.score(known_text, text)["rougeL"].fmeasure for known_text in known_texts]
        nearest = max(scores, default=0.0)
        verdicts.append((scores.index(nearest), nearest) if nearest > limit else None)
        if nearest <= limit:
            known_texts.append(text)
    return verdicts


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT, max_size=4), st.lists(TEXT, max_size=10), LIMIT)
def test_verdicts_and_nearest_are_those_of_rouge_score(known_texts: list[str], texts: list[str], limit: float) -> None:
    assert NoveltyPool(known_texts, limit).novel(texts) == by_rouge_score(known_texts, texts, limit)


@settings(max_examples=50, deadline=None)
@given(st.lists(SENTENCE, max_size=40), st.lists(st.integers(0, 40), max_size=5), st.sampled_from(["en", "any"]))
def test_how_texts_are_split_over_calls_changes_nothing(texts: list[str], cuts: list[int], language: Language) -> None:
    pool = NoveltyPool(["the a b c"], 0.7, language)
    edges = sorted({0, len(texts), *(cut for cut in cuts if cut < len(texts))})
    parts = [verdict for a, b in zip(edges, edges[1:], strict=False) for verdict in pool.novel(texts[a:b])]
    assert parts == NoveltyPool(["the a b c"], 0.7, language).novel(texts)


def test_verdicts_at_the_limit_follow_the_float_steps_of_rouge_score() -> None:
    """F = 2 LCS / (m + n) is 0.7 exactly in numbers; in floats it is above or not, depending on m and n."""
    verdicts = []
    for total in range(20, 121, 20):
        common = total * 7 // 20
        for m in range(common, total - common + 1):
            known_words = [f"s{i}" for i in range(common)] + [f"a{i}" for i in range(m - common)]
            new_words = [f"s{i}" for i in range(common)] + [f"b{i}" for i in range(total - m - common)]
            known_text, text = " ".join(known_words), " ".join(new_words)
            verdict = NoveltyPool([known_text], 0.7).novel([text])
            assert verdict == by_rouge_score([known_text], [text], 0.7), (m, total - m)
            verdicts += verdict
    assert None in verdicts and any(verdicts)  # both happen, or this test would prove little


def test_a_kept_text_counts_against_later_ones_and_a_rejected_one_does_not() -> None:
    near = "one two three four five"
    chain = [near, "two three four five six", "three four five six seven", "four five six seven eight"]
    # each is too near its neighbour (F 0.8); the third only meets the first (0.6), as the second was rejected
    assert [v and v[0] for v in NoveltyPool([], 0.7).novel(chain)] == [None, 0, None, 1]


def test_many_blocks_with_repeats_across_them() -> None:
    texts = [f"alpha{i % 400} beta{i % 400} gamma{i % 400}" for i in range(1000)]
    verdicts = NoveltyPool([], 0.7).novel(texts)
    assert verdicts == [None] * 400 + [(i % 400, 1.0) for i in range(400, 1000)]


@pytest.mark.parametrize("limit", [0.5, 0.7, 0.95])
@pytest.mark.parametrize(
    ("vocabulary", "lengths", "count"),
    [(3, (8, 8), 60), (40, (20, 20), 60), (300, (1, 40), 80), (30, (120, 200), 12)],
    ids=["few words", "one length", "many lengths", "long"],
)
def test_small_blocks_and_threads_change_nothing(
    monkeypatch: pytest.MonkeyPatch, limit: float, vocabulary: int, lengths: tuple[int, int], count: int
) -> None:
    rng = random.Random(7)
    texts = [
        " ".join(f"w{int(vocabulary ** rng.random())}" for _ in range(rng.randint(*lengths))) for _ in range(count)
    ]
    for name, value in {"BLOCK_ROWS": 7, "SIGNATURE_PAIRS": 16, "LCS_PAIRS": 5, "MIN_PAIRS_FOR_THREADS": 1}.items():
        monkeypatch.setattr(rouge_index, name, value)
    monkeypatch.setattr(novelty, "BLOCK_ROWS", 16)
    monkeypatch.setattr(rouge_index, "num_cpu_threads", lambda: 3)
    texts += [shuffled(text, rng) for text in texts[: count // 2]]
    assert NoveltyPool(texts[:3], limit).novel(texts[3:]) == by_rouge_score(texts[:3], texts[3:], limit)


def shuffled(text: str, rng: random.Random) -> str:
    """The text with two of its words exchanged: near it."""
    parts = text.split()
    first, second = rng.randrange(len(parts)), rng.randrange(len(parts))
    parts[first], parts[second] = parts[second], parts[first]
    return " ".join(parts)


def test_more_words_than_there_are_characters() -> None:
    index = RougeIndex(0.7)
    index.add([token_row([1, 2, 3]), token_row([4, 5, 0x110000 + 6, 7]), token_row([4, 5, 6, 7])])
    neighbours = list(index.near([token_row([4, 5, 0x110000 + 6, 7]), token_row([1, 2, 3, 0x110000 + 6])]))
    assert [[row.row_index for row in near_rows] for near_rows in neighbours] == [[1, 2], [0]]


def test_texts_without_words_are_near_nothing() -> None:
    assert NoveltyPool(["", "日本"], 0.7).novel(["", "...", "日本"]) == [None, None, None]


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_unicode_words_are_those_of_rouge_score_on_ascii(text: str) -> None:
    assert split_words(text, "any") == split_words(text, "en")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Où est-il né ?", ["où", "est", "il", "né"]),
        ("Назови три цвета.", ["назови", "три", "цвета"]),
        ("हिन्दी में बताओ", ["हिन्दी", "में", "बताओ"]),  # vowel signs stay with their letters
        ("日本の首都。", ["日", "本", "の", "首", "都"]),  # no spaces: each character
        ("ภาษาไทย", ["ภ", "า", "ษ", "า", "ไ", "ท", "ย"]),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("nai\u0308ve", ["naïve"]),  # one form for what looks the same
    ],
)
def test_words_of_every_script(text: str, expected: list[str]) -> None:
    assert split_words(text, "any") == expected


def test_any_language_sees_repeats_that_the_english_tokenizer_is_blind_to() -> None:
    texts = ["Назови три цвета неба", "Назови три цвета неба!"]
    assert NoveltyPool([], 0.7, "en").novel(texts) == [None, None]
    assert NoveltyPool([], 0.7, "any").novel(texts) == [None, (0, 1.0)]
