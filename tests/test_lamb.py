"""The micro-world of lamb: its oracle, its corpus and its held-out suite."""

import hashlib
import json
import re
from collections import Counter
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isheep.lamb import CHECKPOINT, SEEDS, probe
from isheep.lamb.answers import GRADED_SHARES, check_answer, draw_answer, write_misreading_constraints
from isheep.lamb.constraints import CONSTRAINT_KINDS
from isheep.lamb.dialogues import AGAIN, OTHER
from isheep.lamb.families import FAMILIES
from isheep.lamb.pages import (
    GRADED_WEIGHTS,
    SCORE_LOSS_WEIGHT,
    grade_quality,
    graded_page,
    page_text,
    pages,
    task_text,
)
from isheep.lamb.phrasings import PARTS, Part, constraint_phrasings, family_phrasings, follow_up_phrasings
from isheep.lamb.suite import is_truly_right, seed_tasks, suite, validation, validation_dialogues
from isheep.lamb.world import Quest, draw_quest, dress, part_of, right_answer, understand
from isheep.records import Pair


def draw_quests(count: int, part: Part = "corpus") -> list[Quest]:
    rng = Random(5)
    return [draw_quest(rng, part) for _ in range(count)]


@pytest.mark.parametrize("part", PARTS)
def test_the_world_understands_its_own_tasks(part: Part) -> None:
    for quest in draw_quests(3000, part):
        parsed = understand(quest.instruction, quest.input)
        assert parsed and (parsed.family, parsed.args, parsed.constraints) == (
            quest.family,
            quest.args,
            quest.constraints,
        )


def test_right_answers_are_right_and_wrong_ones_are_not() -> None:
    rng = Random(6)
    for quest in draw_quests(4000) + draw_quests(1000, "exam"):
        text = right_answer(quest, rng)
        assert quest.content_right(text), (quest, text)
        assert all(quest.followed(text)), (quest, text)
        wrong_text = dress(quest, FAMILIES[quest.family].wrong(quest.args, rng), quest.constraints, rng)
        assert not quest.content_right(wrong_text), (quest, wrong_text)


@given(st.text(max_size=80), st.text(max_size=40), st.integers(0, 10_000))
@settings(max_examples=300, deadline=None)
def test_the_oracle_never_fails_on_odd_text(text: str, input: str, seed: int) -> None:
    quest = draw_quest(Random(seed))
    assert isinstance(quest.content_right(text), bool)
    assert all(isinstance(met, bool) for met in quest.followed(text))
    for instruction in (text, quest.request + text, f"{quest.instruction} {text}"):
        pair = Pair(id="t", instruction=instruction, input=input, output=text, finish="stop", tokens=1, seed=0)
        assert is_truly_right(pair) in (True, False)


@pytest.mark.parametrize("number", ["²", "٣", "3²", "1_0", "３", "9" * 5000], ids=lambda number: number[:9])
def test_a_number_is_ascii_digits(number: str) -> None:
    quest = next(quest for quest in draw_quests(300) if quest.family == "sum" and not quest.constraints)
    assert understand(f"{quest.instruction} Use at least 3 words.")
    assert understand(f"{quest.instruction} Use at least {number} words.") is None
    changed = quest.instruction.replace(quest.args[0], number, 1)
    assert changed != quest.instruction and understand(changed) is None


def test_the_parts_share_nothing() -> None:
    corpus = "\n".join(map(page_text, islice(pages(3), 6_000)))
    exam, validated = ({quest.instruction for quest in quests} for quests in (suite(), validation()))
    assert not exam & validated and not [instruction for instruction in exam | validated if instruction in corpus]
    by_kind = [*map(family_phrasings, FAMILIES), *map(constraint_phrasings, CONSTRAINT_KINDS)]
    by_kind += map(follow_up_phrasings, (AGAIN, OTHER))
    for by_part in by_kind:
        phrasings = [phrasing for part in PARTS for phrasing in by_part[part]]
        assert len(set(phrasings)) == len(phrasings)
        assert any(phrasing.partition("{")[0] in corpus for phrasing in by_part["corpus"])
        for phrasing in (*by_part["exam"], *by_part["validation"]):
            assert not re.search(re.sub(r"\\\{\w\\\}", r"[\\w, ]{1,30}?", re.escape(phrasing)), corpus), phrasing


def test_the_corpus_poses_no_open_task_of_the_suite_in_the_same_order() -> None:
    """The docs also say what the corpus does share with the suite: arguments in another order, lists within lists."""
    rng = Random(0)
    corpus = [draw_quest(rng, often=GRADED_WEIGHTS) for _ in range(20_000)]
    quests = [quest for quest in suite() if FAMILIES[quest.family].open]
    assert not {(quest.family, quest.args) for quest in quests} & {(quest.family, quest.args) for quest in corpus}

    def unordered(quest: Quest) -> tuple[str, tuple[str, ...]]:
        return quest.family, tuple(sorted(", ".join(quest.args).split(", ")))

    reordered = {unordered(quest) for quest in corpus}
    assert {quest.family for quest in quests if unordered(quest) in reordered} >= {"sum", "larger", "reverse", "copy"}
    text = "\n".join(map(page_text, islice(pages(3), 3_000)))
    assert any(quest.input in text for quest in quests if quest.input)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_its_own_arguments_of_an_open_space(part: Part) -> None:
    assert all(part_of(quest.args) == part for quest in draw_quests(2000, part) if FAMILIES[quest.family].open)


def test_the_suite_covers_every_family_and_constraint() -> None:
    for quests in (suite(), validation()):
        assert len({task_text(quest) for quest in quests}) == len(quests)
        assert {quest.family for quest in quests} == set(FAMILIES)
        assert {constraint.kind for quest in quests for constraint in quest.constraints} == set(CONSTRAINT_KINDS)


def test_the_committed_seed_tasks_are_the_generated_ones() -> None:
    rows = [json.loads(line) for line in SEEDS.read_text(encoding="utf-8").splitlines()]
    assert [{key: row[key] for key in row if key != "id"} for row in rows] == list(seed_tasks())


def test_grades_depend_on_the_truth() -> None:
    rng, scores = Random(8), {True: [], False: []}
    for quest in draw_quests(2000):
        answer = draw_answer(quest, GRADED_SHARES, rng)
        scores[answer.note == "right"].append(grade_quality(quest, answer, rng)[0])
    mean = {right: sum(values) / len(values) for right, values in scores.items()}
    assert mean[True] > mean[False] + 3


def test_scores_on_graded_pages_are_spread() -> None:
    rng = Random(8)
    pieces = [piece for _ in range(2000) for piece in graded_page(rng)]
    counts = Counter(int(text) for text, weight in pieces if weight == SCORE_LOSS_WEIGHT)
    assert set(counts) == set(range(1, 11)) and max(counts.values()) < 0.3 * counts.total()


def test_the_score_of_a_right_answer_depends_on_how_succinct_it_is() -> None:
    rng, quest = Random(8), next(quest for quest in draw_quests(300) if quest.family == "capital")
    texts = (quest.right, f"The capital of {quest.args[0]} is {quest.right}.", f"Sure, it is of course {quest.right}.")
    answers = [check_answer(quest, text, 2) for text in texts]
    scores = [Counter(grade_quality(quest, answer, rng)[0] for _ in range(500)) for answer in answers]
    assert [counts.most_common(1)[0][0] for counts in scores] == [10, 9, 8]


def test_families_and_constraints_can_be_drawn_more_often() -> None:
    rng, often = Random(5), {"sum": 21, "include": 10}
    quests = [draw_quest(rng, often=often) for _ in range(2000)]
    assert 0.4 < sum(quest.family == "sum" for quest in quests) / len(quests) < 0.6
    kinds = [constraint.kind for quest in quests for constraint in quest.constraints]
    assert kinds.count("include") > 4 * max(kinds.count(kind) for kind in CONSTRAINT_KINDS if kind != "include")


def test_a_misread_constraint_is_seen_by_the_grade() -> None:
    rng, num_missed = Random(5), 0
    for quest in (draw_quest(rng, often={"include": 30}) for _ in range(300)):
        answer = write_misreading_constraints(quest, rng)
        assert answer.content == 2 and (answer.met < 1) == (not all(quest.followed(answer.text)))
        num_missed += answer.met < 1
    assert num_missed > 100


def test_the_corpus_is_that_of_the_packaged_checkpoint() -> None:
    """The hash is that of the pages that the packaged lamb read last."""
    first_pages = json.dumps(list(islice(pages(1), 1000))).encode()
    assert hashlib.sha256(first_pages).hexdigest() == "f339efa10d68c9a3601b8eaba43b31f8f18c1e28981350fb6a08904633dfd4f9"


def test_the_corpus_is_seeded() -> None:
    assert list(islice(pages(4), 50)) == list(islice(pages(4), 50)) != list(islice(pages(5), 50))
    assert any(weight == SCORE_LOSS_WEIGHT for page in islice(pages(4), 50) for _, weight in page)


def test_the_world_checks_as_ifeval_does() -> None:
    registry = pytest.importorskip("lm_eval.tasks.ifeval.instructions_registry", reason="lm_eval[ifeval] not installed")
    rng = Random(9)
    for quest in draw_quests(1500):
        text = right_answer(quest, rng) if rng.random() < 0.5 else dress(quest, quest.right, quest.constraints[:1], rng)
        for constraint, met in zip(quest.constraints, quest.followed(text), strict=True):
            # For these two IFEval also detects the language, which is random on one word.
            if constraint.kind == "upper" or constraint.kind == "lower":
                continue
            num_words = int(constraint.value) if constraint.kind in ("few", "many") else 0
            kwargs = {
                "end": {"end_phrase": constraint.value},
                "include": {"keywords": [constraint.value]},
                "forbid": {"forbidden_words": [constraint.value]},
                "few": {"num_words": num_words, "relation": "less than"},
                "many": {"num_words": num_words, "relation": "at least"},
                "repeat": {"prompt_to_repeat": quest.request},
            }.get(constraint.kind, {})
            checker = registry.INSTRUCTION_DICT[CONSTRAINT_KINDS[constraint.kind].ifeval]("x")
            checker.build_description(**kwargs)
            assert bool(checker.check_following(text)) == met, (quest, text, constraint)


# --- the probe


def test_the_probe_measures_answers_and_second_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says nothing about the values."""
    monkeypatch.setattr(probe, "validation", lambda: validation()[:20])
    monkeypatch.setattr(probe, "validation_dialogues", lambda: validation_dialogues()[:5])
    shares = probe.measure_answers(CHECKPOINT, threads=1)
    suffixes = ("", ", upper", ", second turn")
    assert list(shares["greedy"]) == [f"{name}{suffix}" for suffix in suffixes for name in ("right", "content")]
    assert list(shares["sampled"]) == ["right", "content"]
    assert all(0 <= share <= 1 for of_answers in shares.values() for share in of_answers.values())


def test_the_probe_measures_ratings_of_capital_letters_and_of_misread_constraints() -> None:
    for kind in (probe.UPPER, *probe.HARD_CONSTRAINTS):
        assert all(kind in quest.constraint_kinds for quest in probe.draw_quests_with(kind, 20, Random(1)))
    reader = probe.load_score_reader(CHECKPOINT)
    assert 0 <= probe.measure_upper(reader, 8) <= 1
    assert all(0 <= probe.measure_misread(reader, kind, 8) <= 1 for kind in probe.HARD_CONSTRAINTS)
