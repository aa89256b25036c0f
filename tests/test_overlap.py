"""Overlap with benchmark prompts: the verdicts of plain loops, and what the contamination filter drops."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isheep import api
from isheep.filters.base import FilterContext
from isheep.filters.contamination import ContaminationFilter
from isheep.recipe import loading
from isheep.records import Exchange, Pair
from isheep.stages.filters import find_drops
from isheep.text.novelty import find_near, find_repeated, split_words
from isheep.text.overlap import MIN_WORDS, find_overlap
from tests.helpers.rows import make_pair

PROMPT = "Write a short story about a lighthouse keeper who finds a message in a bottle on a stormy night."
SHORT = "who played the doctor in the first film"  # 8 words


def runs_by_loops(rows: Sequence[Pair], prompts: Sequence[str], ngram: int) -> tuple[set[int], set[int]]:
    hit, touched = set(), set()
    for p, prompt in enumerate(prompts):
        words = split_words(prompt, "any")
        width = min(ngram, len(words))
        grams = {tuple(words[k : k + width]) for k in range(len(words) - width + 1)}
        for r, row in enumerate(rows):
            for text in (split_words(row.content, "any"), split_words(row.output, "any")):
                if width >= min(MIN_WORDS, ngram) and any(
                    tuple(text[k : k + width]) in grams for k in range(len(text))
                ):
                    hit.add(r)
                    touched.add(p)
    return hit, touched


TEXT = st.lists(st.sampled_from("abc"), max_size=24).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(TEXT, max_size=5), st.lists(st.tuples(TEXT, TEXT), max_size=5), st.sampled_from([2, 3, 8, 10, 13])
)  # two letters and few words: many runs in common
def test_runs_of_words_are_those_of_plain_loops(prompts: list[str], texts: list[tuple[str, str]], ngram: int) -> None:
    rows = [make_pair(n, task, output) for n, (task, output) in enumerate(texts)]
    overlap, (hit, touched) = find_overlap(rows, prompts, ngram, None), runs_by_loops(rows, prompts, ngram)
    exact = {p for p, prompt in enumerate(prompts) if prompt in {row.content for row in rows}}
    assert set(overlap.rows) == hit | {r for r, row in enumerate(rows) if row.content in prompts}
    assert overlap.prompts == touched | exact


@pytest.mark.parametrize(("ngram", "rouge"), [(None, None), (13, 0.7)])
def test_a_prompt_as_the_second_turn_of_a_dialogue_is_found(ngram: int | None, rouge: float | None) -> None:
    dialogue = f"User: Name a city.\nAssistant: Rome\nUser: {PROMPT}"
    row = make_pair(0, PROMPT.upper(), history=(Exchange("Name a city.", "Rome"),))
    overlap = find_overlap([row], ["Go", PROMPT, dialogue], ngram, rouge)
    assert overlap.rows == {0: ("exact", "a benchmark's prompt")} and overlap.prompts == {1, 2}
    near = row.model_copy(update={"instruction": PROMPT.replace("Write", "Please write")})
    assert set(find_overlap([near], [PROMPT], None, rouge).rows) == ({0} if rouge else set())


@settings(max_examples=50, deadline=None)
@given(st.lists(TEXT, max_size=12), st.sampled_from([0.7, 0.5, 1.0]))
def test_near_and_repeated_are_rouge_score_s(texts: list[str], limit: float) -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge_score is not installed")
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)

    def above(reference: str, candidate: str) -> bool:
        return bool(scorer.score(reference, candidate)["rougeL"].fmeasure > limit)

    expected = [[k for k, candidate in enumerate(texts) if above(text, candidate)] for text in texts]
    assert list(find_near(texts, texts, limit)) == expected
    assert find_repeated(texts, limit) == [bool(set(row) - {n}) for n, row in enumerate(expected)]


def test_repeated_among_more_texts_than_those_asked_about() -> None:
    texts = [f"alpha{i % 70} beta{i % 70} gamma{i % 70}" for i in range(100)] + [""] * 3
    complete = find_repeated(texts, 0.7)
    assert find_repeated(texts[20:50], 0.7, among=texts) == complete[20:50] and len(set(complete[20:50])) == 2
    assert find_repeated(texts[25:], 0.7, among=iter(texts)) == complete[25:]


def test_repeated_texts_in_many_blocks() -> None:
    texts = [f"alpha{i % 700} beta{i % 700} gamma{i % 700}" for i in range(1000)]
    assert find_repeated(texts, 0.7) == [i < 300 or i >= 700 for i in range(1000)]


WAYS = {
    "exact": make_pair(0, f"  {PROMPT.upper()} "),
    "ngram": make_pair(
        1, f"Today: {' '.join(PROMPT.split()[:13])} dog, and then say what it learned from all of that work."
    ),
    "answer": make_pair(2, "Say it", output=f"He said: {PROMPT}"),
    "short": make_pair(3, f"Tell me {SHORT}, please, and in which year that was, and where, and why it matters"),
    "rouge": make_pair(4, PROMPT.replace("short", "long").replace("stormy", "quiet").replace("message", "letter")),
    "twelve": make_pair(
        5, f"Now {' '.join(PROMPT.split()[:12])} cat, then explain to me at length what cats do all day"
    ),
    "nothing": make_pair(6, "Name three rivers"),
}


@pytest.mark.parametrize(
    ("ngram", "rouge", "touched"),
    [(13, 0.7, "exact ngram answer short rouge"), (13, None, "exact ngram answer short"), (None, 0.7, "exact rouge"),
     (None, None, "exact"), (12, None, "exact ngram answer short twelve"), (None, 0.9, "exact")],
)  # fmt: skip
def test_each_kind_of_overlap_and_the_filter_that_drops_it(
    ngram: int | None, rouge: float | None, touched: str
) -> None:
    rows, prompts = list(WAYS.values()), [SHORT, PROMPT, "Who is it?"]
    overlap = find_overlap(rows, prompts, ngram, rouge)
    names = [name for n, name in enumerate(WAYS) if n in overlap.rows]
    assert names == touched.split() and 1 in overlap.prompts and 2 not in overlap.prompts
    rule = ContaminationFilter(kind="contamination", ngram=ngram, rouge=rouge)
    dropped = find_drops(rows, [rule], False, [], FilterContext(prompts))
    assert [drop.row for drop in dropped] == [WAYS[name].id for name in names]
    assert {drop.by for drop in dropped} == {"contamination"}


def test_reasons_name_the_words() -> None:
    overlap = find_overlap(list(WAYS.values()), [SHORT, PROMPT], 13, 0.7)
    assert overlap.rows[0] == ("exact", "a benchmark's prompt")
    assert overlap.rows[1][1].startswith(
        "13 words of a benchmark's prompt: write a short story about a lighthouse keeper"
    )
    assert overlap.rows[3] == ("ngram", f"8 words of a benchmark's prompt: {SHORT}")
    assert overlap.rows[4] == ("rouge", "ROUGE-L above 0.7 to a benchmark's prompt")
    assert overlap.kinds == {"exact": 1, "ngram": 3, "rouge": 1}


def test_words_of_every_script_count() -> None:
    text = "Напиши короткий рассказ о смотрителе маяка который нашёл письмо в бутылке на берегу"
    assert set(find_overlap([make_pair(0, f"Пожалуйста: {text}!")], [text], 13, None).rows) == {0}


def test_every_recipe_for_lamb_drops_its_prompts_word_for_word_only() -> None:
    """Its tasks share most of their words: anything looser would drop half of them."""
    names = [name for name in loading.recipe_names() if name == "lamb" or name.startswith("lamb/")]
    recipes = [r for name in names for r in every(name)]
    rules = [rule for recipe in recipes for rule in recipe.filters if isinstance(rule, ContaminationFilter)]
    assert len(recipes) > 30 and len(rules) > 30
    assert {(rule.ngram, rule.rouge) for rule in rules} == {(None, None)}


def every(name: str) -> list[loading.Recipe]:
    path = loading.find_recipe(name)
    return list(api.load_sweep(path).values()) if loading.is_sweep(path) else [api.load_recipe(path)]


def test_the_rule_of_lamb_compares_exact_words() -> None:
    """On tasks of its own world: the rule's verdicts are those of a comparison of case-folded words."""
    from isheep.lamb.pages import task_text
    from isheep.lamb.suite import suite
    from isheep.lamb.world import draw_quest

    rng = random.Random(5)
    exam = [task_text(quest) for quest in suite(200)]
    quests = [*(draw_quest(rng) for _ in range(200)), *suite(200)[:9]]
    rows = [make_pair(n, quest.instruction, input=quest.input) for n, quest in enumerate(quests)]
    prompts = {" ".join(prompt.casefold().split()) for prompt in exam}
    expected = [row.id for row in rows if " ".join(row.content.casefold().split()) in prompts]
    rule = ContaminationFilter(kind="contamination", ngram=None, rouge=None)
    assert [drop.row for drop in find_drops(rows, [rule], False, [], FilterContext(exam))] == expected != []
