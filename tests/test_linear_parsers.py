"""The time of every parser of model text grows with the text's length, and not with its square.

A text of ten times the length may take 40 times the CPU time: a linear parser takes about 10 times, a quadratic one
about 100 times. Times under `FLOOR` say nothing and count as `FLOOR`.
"""

import gc
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from isheep.benchmarks import ifeval, lamb
from isheep.benchmarks.standard import squad2
from isheep.benchmarks.support import alpaca_evaluators, fastchat, opencompass, programs
from isheep.benchmarks.support.ifeval_checks import count_bullets, count_placeholders, has_postscript, has_title
from isheep.evaluation.formatting import UNPRINTABLE
from isheep.judges.base import safe_file_name
from isheep.lamb import world
from isheep.lamb.suite import suite
from isheep.models.prompt_text import mark_tokens
from isheep.prompts.forms import load_topic_guide
from isheep.records import Completion, Reply
from isheep.stages import filters, grades, instances, topics
from isheep.stages.blocks import parse_blocks
from isheep.stages.rules import broken_rule
from isheep.text.novelty import split_words
from tests.helpers.data_files import DATA

SIZES = (10**4, 10**5)
ALL_SIZES = (*SIZES, 10**6)
MOST_GROWTH, FLOOR = 40, 0.01
# How often a text is timed again, and the seconds above which it is not.
REPEATS, LONG = 4, 5.0

# (what a text begins with, what it repeats, what it ends with)
Form = tuple[str, str, str]
COMMON: tuple[Form, ...] = (
    ("", " ", "x"), ("", "\n", "x"), ("", "1", "x"), ("", "a", "!"), ("", "[", ""), ("", "<", ""), ("the ", "the ", ""),
)  # fmt: skip
AB: dict[float, str] = {1: r"(?:^|\n) ?Output \(a\)", 2: r"(?:^|\n) ?Output \(b\)"}


def _letters(text: str) -> list[object]:
    return [opencompass.read_letter(text), opencompass.clean(text), squad2.words(text)]


def _matches(text: str) -> list[bool]:
    names = ("nq", "triviaqa", "squad2")
    return [opencompass.matches(opencompass.load_template(name), text, ["ann lee"]) for name in names]


def _lamb(text: str) -> list[object]:
    """Ask all that the exam asks of an answer, for a quest of each family and each kind of constraint."""
    quests: dict[object, world.Quest] = {quest.family: quest for quest in suite()}
    quests |= {quest.constraints: quest for quest in suite() if quest.constraints}
    by_kind = {constraint.kind: (constraint, quest) for quest in quests.values() for constraint in quest.constraints}
    met = [world.follows(constraint, quest, text) for constraint, quest in by_kind.values()]
    right = [world.content_right(quest, text) for name, quest in quests.items() if isinstance(name, str)]
    return [met, right, world.understand(text), lamb.variants(text)]


def _topics(text: str) -> object:
    guide = load_topic_guide("dromedary/topics")
    return topics.parse_topics([Reply(id="a", text=text, finish="stop", tokens=1)], guide)


PARSERS: dict[str, tuple[Callable[[str], object], tuple[Form, ...]]] = {
    "MT-Bench rating": (fastchat.read_rating, (("[[", "1", ""), ("", "[[1", ""), ("[[1.", "1", "]"), ("", "[1]", "["))),
    "code": (
        partial(programs.extract, name="a"),
        (
            ("def add(a): pass\na:", " ", ""), ("", "```\n", ""), ("```\n", " ```", ""), ("", " ```\n", ""),
            ("def a(", "a.", ""), ("from ", "a.", " "), ("x = 1\n", "a, ", ""), ("import a\n", "x\n", ""),
            ("import a\n", "*", ""), ("class a", " ", ""), ("@a\n", "a: a[", ""), ("", "def b(): pass\n", ""),
        ),
    ),
    "body": (programs.body, (("", "\n\n", "x"), ("", "x\n", ""))),
    "AlpacaEval pattern": (
        partial(alpaca_evaluators.regex_parser, outputs_to_match=AB),
        (("", "Output (a)\n", ""), ("", "\nOutput (b)", ""), ("", "Output (a)", ""), ("Output (a)", "\n", "")),
    ),
    "AlpacaEval JSON": (
        partial(alpaca_evaluators.json_parser, annotation_key="a"), (("", "```json", ""), ("", "{", "")),
    ),
    "answers of the paper's protocol": (_letters, (("", "answer is ", ""), ("answer is", " ", ""), ("", "a ", ""))),
    "references": (_matches, (("", "answer is ", ""), ("", "a: ", ""), ("", "an ", ""))),
    "grade": (
        grades.parse_grade,
        (
            ("8", " ", "||"), ("", "8 ", "||"), ("8", " out of", ""), ("", "score ", "8"), ("1.", "1", "x||"),
            ("", "<8", ">"),
        ),
    ),
    "kind": (instances.parse_kind, (("", "_", "no"), ("no", "_", ""), ("", "yes ", ""))),
    "instance": (
        lambda text: instances.parse_part(Completion(text, 1, "stop")),
        (("", "##", ""), ("", "1. output:", ""), ("", "1 ", "."), ("output", " ", "x")),
    ),
    "blocks": (
        partial(parse_blocks, first=1),
        (
            ("", "\n1. Instruction: a", ""), ("", "Input:\n", ""), ("", "###", ""), ("", "## ", ""), ("1", "\n", "."),
            ("Input:", " no", ""), ("Input: ", "_", "x"), ("", "1. input", ""), ("Input: <noinput", ">", "\nx"),
        ),
    ),
    "rules of synthesis": (broken_rule, (("a b c d ", "<|", ""), ("a b c d ", "go ", ""))),
    "topics": (_topics, (("", "a;", ""), ("", "a-", ""), ("", ";", ""))),
    "special tokens": (re.compile(filters.SPECIAL_TOKEN).search, (("", "<|a", ""), ("<|", "a", "|>"))),
    "spelled special tokens": (
        partial(mark_tokens, tokens=["<|end|>", "<s>"]),
        (("", "<|", ""), ("<" * 5000, "<s>", "s>" * 5000)),
    ),
    "English words": (split_words, (("", "a1 ", ""), ("", "é", ""))),
    "words": (
        partial(split_words, language="any"),
        (("", "\u3042", ""), ("", "e\u0301\u0323", ""), ("e", "\u0301\u0323", ""), ("", "_a", "")),
    ),
    "lamb": (_lamb, (("", "<<", ""), ("<<", "a>", ""), ("What is the capital of ", "a, ", "?"), ("", "\n<<", ">>"))),
    "unprintable characters": (partial(UNPRINTABLE.sub, ""), (("", "\x00", ""),)),
    "names of judges": (safe_file_name, (("", "/", ""), ("", ".-", "x"))),
    "placeholders": (count_placeholders, (("", "[]", ""), ("", "[a", ""))),
    "bullets": (count_bullets, (("", "\n*", ""), ("", "* a\n", ""), ("", " -", ""), ("*", "\n", ""))),
    "title": (has_title, (("", "<<", ""), ("", ">>", "<<"), ("", "<<a>>\n", ""))),
    "postscript": (has_postscript("P.P.S"), (("", "p.", ""), ("", "p. ", ""))),
}  # fmt: skip


def cpu_seconds(parser: Callable[[str], object], text: str) -> float:
    """Return the CPU time of a call, without garbage collection, which depends on all other objects."""
    gc.disable()
    start = time.process_time()
    try:
        # A reply that can't be read, which the caller counts as such.
        with suppress(ValueError, SyntaxError, RecursionError):
            parser(text)
        return max(time.process_time() - start, FLOOR)
    finally:
        gc.enable()


def growth(parser: Callable[[str], object], form: Form, sizes: tuple[int, ...]) -> Iterator[float]:
    """Yield how much longer the parser takes for each text than for the one before, which is a tenth of it.

    Other work on the machine makes a call slower, never faster: if the growth looks too large, the larger text is timed
    again, and the least of its times counts.
    """
    before, repeated, after = form
    cpu_seconds(parser, "warm up")
    earlier = None
    for size in sizes:
        text = before + repeated * (size // len(repeated)) + after
        seconds = cpu_seconds(parser, text)
        if earlier is not None:
            for _ in range(REPEATS):
                if seconds < MOST_GROWTH * earlier or seconds > LONG:
                    break
                seconds = min(seconds, cpu_seconds(parser, text))
            yield seconds / earlier
        earlier = seconds


def check_growth(name: str, sizes: tuple[int, ...]) -> None:
    parser, forms = PARSERS[name]
    for form in (*COMMON, *forms):
        for factor in growth(parser, form, sizes):
            assert factor < MOST_GROWTH, (name, form)


@pytest.mark.parametrize("name", PARSERS)
def test_the_time_of_a_parser_grows_with_the_length(name: str) -> None:
    check_growth(name, SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_the_time_of_a_parser_grows_with_the_length_up_to_a_megabyte(name: str) -> None:
    check_growth(name, ALL_SIZES)


def test_a_quadratic_parser_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule for ratings that MT-Bench had, at smaller sizes."""
    monkeypatch.setitem(globals(), "REPEATS", 0)
    quadratic = re.compile(r"\[\[(\d+\.?\d*)\]\]").search
    assert max(growth(quadratic, ("[[", "1", ""), (1500, 15000))) > MOST_GROWTH


ANSWERS: tuple[Form, ...] = (
    *COMMON, ("", "a. ", ""), ("", "* a\n", ""), ("", "\n\n", "a"), ("", "*", "a"), ("", "A.B.", ""), ("", "[a", ""),
    ("{", '"a', ""), ("", "P.S. ", ""), ("", "Mr. ", ""), ("", "it's ", ""), ("", "\u3042", ""), ("", "......", ""),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "ifeval").is_dir(), reason=f"no benchmark files: {DATA} (set ISHEEP_DATA)")
def test_the_time_of_ifevals_checks_grows_with_the_length() -> None:
    """One instruction of each kind, strict and loose reading."""
    registry = ifeval.checkers()
    checks: dict[str, Callable[[str], object]] = {}
    for item in ifeval.load(DATA / "ifeval" / "input_data.jsonl"):
        for kind, check in zip(item.instruction_id_list, ifeval.make_checks(item, registry), strict=True):
            checks.setdefault(kind, check)
    for kind, check_text in checks.items():
        for form in ANSWERS:
            for factor in growth(check_text, form, SIZES):
                assert factor < MOST_GROWTH, (kind, form)
    assert len(checks) == 25
