"""The figures of docs/lamb.md that follow from other figures, or from code that takes seconds."""

import re
from collections import Counter
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from isheep.evaluation.statistics import compare_over_seeds
from isheep.lamb.families import FAMILIES
from isheep.lamb.pages import GRADED_WEIGHTS, page_text, pages
from isheep.lamb.suite import suite
from isheep.lamb.world import Quest, draw_quest

DOCS = Path(__file__).parents[1] / "docs" / "lamb.md"
NO_LISTS = ("sum", "larger")


@cache
def docs() -> str:
    """Return the page with single spaces for its line ends."""
    return " ".join(DOCS.read_text(encoding="utf-8").split())


def numbers(pattern: str) -> tuple[int, ...]:
    """Return the numbers of the one place of the page that a pattern fits."""
    [match] = re.finditer(pattern, docs())
    return tuple(int(group.replace(",", "")) for group in match.groups())


def open_quests() -> list[Quest]:
    return [quest for quest in suite() if FAMILIES[quest.family].open]


def test_the_test_over_seeds_is_that_of_the_table() -> None:
    """The difference and the p over seeds are those of the gains in the table of the deciding score."""
    table = re.search(r"### All right, greedy.*?### ", docs())
    assert table is not None
    rows = re.findall(r"\| \d+ \| (0\.\d+) \[[^|]*\|[^|]*\|[^|]*\| (0\.\d+) \[[^|]*\|[^|]*p = [\d.e-]+ \|", table[0])
    assert len(rows) == 6
    before, after = ([float(row[index]) for row in rows] for index in (0, 1))
    result = compare_over_seeds(before, after)
    interval = f"{result.difference:+.3f} [{result.low:+.3f}, {result.high:+.3f}], p = {result.p:.2g}"
    assert f"Over seeds: {interval} (paired t of 6 gains)." in table[0]


def test_the_docs_count_the_arguments_that_the_corpus_has_in_another_order() -> None:
    num_open, reordered, num_tasks = numbers(
        r"the suite's (\d+) tasks with open arguments, (\d+) are posed in another order among ([\d,]+) tasks"
    )
    by_family = numbers(r"\((\d+) of (\d+) sums, (\d+) of (\d+) comparisons, (\d+) of (\d+) reversals\)")
    rng, quests = Random(0), open_quests()

    def unordered(quest: Quest) -> tuple[str, tuple[str, ...]]:
        return quest.family, tuple(sorted(", ".join(quest.args).split(", ")))

    corpus = {unordered(draw_quest(rng, often=GRADED_WEIGHTS)) for _ in range(num_tasks)}
    counts = Counter(quest.family for quest in quests if unordered(quest) in corpus)
    totals = Counter(quest.family for quest in quests)
    assert (num_open, reordered) == (len(quests), counts.total())
    families = ("sum", "larger", "reverse")
    assert by_family == tuple(count for family in families for count in (counts[family], totals[family]))


@pytest.mark.slow
def test_the_docs_count_the_lists_that_stand_on_pages() -> None:
    inside, num_lists, num_pages = numbers(
        r"(\d+) of its (\d+) lists stand within a longer list or an answer on ([\d,]+) pages"
    )
    lists = [quest for quest in open_quests() if quest.family not in NO_LISTS]
    text = "\n".join(map(page_text, islice(pages(3), num_pages)))
    assert (inside, num_lists) == (sum(", ".join(quest.args) in text for quest in lists), len(lists))
