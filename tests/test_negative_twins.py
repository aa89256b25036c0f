"""The negative twin of each control: answers that are nearly right, or right in part, and must not count as right."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from isheep import sandbox
from isheep.benchmarks import EvalContext, humaneval, humaneval_plus, load_benchmark, mbpp, mbpp_sanitized
from isheep.benchmarks.support import alpaca_evaluators, fastchat, opencompass
from isheep.benchmarks.support.data_files import read_rows
from isheep.engines.function import SeededFunctionEngine
from isheep.lamb.suite import is_right, suite
from isheep.models.chat_template import load_chat_template
from isheep.recipe.benchmark_names import packaged_names
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import TokenLogprobs
from isheep.rundir.folder import RunFolder
from tests.helpers.benchmark_files import HUMANEVAL_TASK, mbpp_task, write_benchmark
from tests.helpers.data_files import DATA

# By benchmark: the number of options of each item in tests/helpers/benchmark_files.py, and the index of the right one.
OPTIONS: dict[str, list[tuple[int, int]]] = {
    "boolq": [(2, 1), (2, 0)], "piqa": [(2, 0), (2, 1)], "siqa": [(3, 1), (3, 0)], "winogrande": [(2, 0), (2, 1)],
    "hellaswag": [(4, 1), (4, 0)], "openbookqa_fact": [(4, 0), (4, 1)], "commonsense_qa": [(5, 0), (5, 4)],
    "mmlu": [(4, 0), (4, 1), (4, 1)],
    "arc_easy": [(4, 0), (3, 1), (4, 2)], "arc_challenge": [(4, 0), (3, 1), (4, 2)],
}  # fmt: skip
OPTIONS = {f"{protocol}/{name}": options for protocol in ("paper", "standard") for name, options in OPTIONS.items()}
# OpenCompass leaves out items that have not four options.
OPTIONS |= {f"paper/{name}": [(4, 0), (4, 2)] for name in ("arc_easy", "arc_challenge")}
# lm-eval shuffles the options of GPQA: the right one is the letter before "four".
OPTIONS["standard/gpqa_diamond"] = [(4, -1), (4, -1)]


class Preferring(SeededFunctionEngine):
    """Finds the texts likely that `liked` holds, and remembers all."""

    def __init__(self, liked: Sequence[str] = (), answer: str = "") -> None:
        super().__init__(lambda prompt, seed: answer)
        self.liked, self.read = frozenset(liked), list[str]()

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        texts = [prompt + output for prompt, output in zip(prompts, outputs, strict=True)]
        self.read += texts
        chances = [-0.5 if text in self.liked else -1.0 for text in texts]
        return [TokenLogprobs([0] * 4, [chance] * 4) for chance in chances]


def context(tmp_path: Path, model: Path, name: str, data: Path | None, engine: Any) -> EvalContext:
    folder = RunFolder(tmp_path / "run" / "base" / "eval" / "own", tmp_path / "run")
    folder.path.mkdir(parents=True)
    settings = BenchmarkSettings(name=name, data=str(data) if data else None)
    return EvalContext(engine, load_chat_template("qwen", str(model)), 42, folder, settings, True, unsafe_code=True)


def right_items(name: str, tmp_path: Path, model: Path, data: Path, engine: Any) -> list[Any]:
    scores = load_benchmark(name).run(context(tmp_path, model, name, data, engine)).scores
    return list((scores.get("accuracy") or scores["acc"]).items)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name.startswith("standard/") else ()) for name in OPTIONS],
)
def test_each_wrong_option_is_wrong(tmp_path: Path, qwen2: Path, name: str) -> None:
    """One option of each item is likely at a time: the item is right if and only if it is the right one."""
    if name.startswith("standard/"):
        pytest.importorskip("lm_eval", reason="lm-eval is not installed: the extra eval")
    data = write_benchmark(tmp_path / "data", name.partition("/")[2])
    engine = Preferring()
    first_wins = right_items(name, tmp_path / "none", qwen2, data, engine)
    # The first text only loads the model; then come the options of the first item, of the second, and so on.
    texts = iter(engine.read[1:])
    option_texts = [[next(texts) for _ in range(count)] for count, _ in OPTIONS[name]]
    assert not list(texts) and all(len(set(options)) == len(options) for options in option_texts)
    right = [
        index if index >= 0 else letter_of("four", options[0])
        for options, (_, index) in zip(option_texts, OPTIONS[name], strict=True)
    ]
    assert first_wins == [index == 0 for index in right]
    for number in range(max(map(len, option_texts))):
        indices = [number % len(options) for options in option_texts]
        engine = Preferring([options[index] for options, index in zip(option_texts, indices, strict=True)])
        verdicts = right_items(name, tmp_path / str(number), qwen2, data, engine)
        assert verdicts == [index == expected for index, expected in zip(indices, right, strict=True)], number


def letter_of(option: str, prompt: str) -> int:
    """Return the index of the letter that stands before an option in a prompt."""
    (index,) = (index for index, letter in enumerate("ABCD") if f"({letter}) {option}\n" in prompt)
    return index


WRITTEN: dict[str, list[str]] = {
    # Two items: "Ann Lee" or "Mrs Lee", and 1972.
    "nq": ["Lee Ann", "Ann. Lee", "1973", "19 72", "The answer is Ann, not Lee", "Ann Le", "answer is\nAnn Lee 1972"],
    "triviaqa": ["An", "1973", "Lee", "197", "answer: Bob"],
    # Ann, and nothing.
    "squad2": ["Ann Lee", "Annn", "The Ann is", "impossible", "impossible to answer it", "unanswerable", "white"],
    "gpqa_diamond": ["E", "", "abcd", "a", "The answer is E", "(b)"],
}


# Those that lm-eval's task has the model write too.
STANDARD_WRITTEN = ("nq", "triviaqa", "squad2")


@pytest.mark.parametrize("name", WRITTEN)
def test_an_almost_right_answer_is_wrong(tmp_path: Path, qwen2: Path, name: str) -> None:
    data = write_benchmark(tmp_path / "data", name)
    for number, answer in enumerate(WRITTEN[name]):
        entry = context(tmp_path / str(number), qwen2, f"paper/{name}", data, Preferring(answer=answer))
        scores = load_benchmark(f"paper/{name}").run(entry).scores
        assert not any(next(iter(scores.values())).items), answer


@pytest.mark.parametrize(
    "text",
    ["[8", "[[8/10]]", "[[ 8 ]]", "[[8.5.1]]", "[[-8]]", "Rating: 8", "[[eight]]", "[[]]", "[[08]]", "[[8)"],
)
def test_an_almost_right_rating_is_none(text: str) -> None:
    assert fastchat.read_rating(text) is None


def test_an_almost_right_preference_is_none() -> None:
    patterns: dict[float, str] = {1: r"(?:^|\n) ?Output \(a\)", 2: r"(?:^|\n) ?Output \(b\)"}
    for text in ("Output a", "output (a)", "The best is Output (a)", "Output (c)", "  Output (a)", "Output (ab)"):
        assert alpaca_evaluators.regex_parser(text, patterns) == [], text
    assert alpaca_evaluators.regex_parser("Output (b)\nOutput (a)", patterns) == [2, 1]
    for ranking in ('[{"model": "model_2", "rank": 1}]', '{"model_1": 1}', "model_1", "[1]"):
        try:
            assert alpaca_evaluators.ranking_parser(ranking) == [None]
        except (ValueError, TypeError, KeyError, SyntaxError):
            continue


def test_letters_that_are_none() -> None:
    for text in ("Answer: apple", "answer is a", "IBAN", "D'Arcy", "x_A"):
        assert opencompass.read_letter(text) is None, text


# --- code


def test_a_solution_that_fails_one_test_only() -> None:
    isolation = sandbox.find_isolation(unsafe=True)
    own = humaneval.problem(HUMANEVAL_TASK)
    row = mbpp_task(13, test_list=["assert add(1) == 14", "assert add(0) == 13", "assert add(7) == 20"])
    programs = [
        own.program("    return 4 if n == 2 else 2\n"),
        own.program("    return abs(2 * n)\n"),
        mbpp.problem(row).program("def add(n): return {1: 14, 0: 13}.get(n)"),
        mbpp.problem(row).program("def add(n): return str(n + 13)"),
        mbpp.problem(row).program("def plus(n): return n + 13"),
    ]
    assert [outcome.passed for outcome in sandbox.run_all(programs, isolation)] == [False] * 5


EXAMPLE = "    return {3: 2/3, 4: 1.0, 5: 6/5}[len(numbers)]\n"


@pytest.mark.skipif(not (DATA / "humaneval").is_dir(), reason=f"no benchmark files: {DATA} (set ISHEEP_DATA)")
def test_a_table_of_humanevals_own_tests_is_base_and_not_plus() -> None:
    isolation = sandbox.find_isolation(unsafe=True)
    rows = {row["task_id"]: row for row in read_rows(DATA / "humaneval_plus" / "HumanEvalPlus.jsonl.gz")}
    row = rows["HumanEval/4"]
    assert len(row["plus_input"]) > 100
    assert sandbox.run(humaneval.problem(row).program(EXAMPLE), isolation).passed
    control, (example, canonical) = humaneval_plus.judge(row, [EXAMPLE, row["canonical_solution"]], isolation)
    assert control.passed and example.base.passed and not example.plus.passed
    assert canonical.base.passed and canonical.plus.passed
    last = dict(row, plus_input=row["plus_input"][-1:])
    _, (outcome,) = humaneval_plus.judge(last, [EXAMPLE], isolation)
    assert outcome.base.passed and not outcome.plus.passed, "also the last input alone"


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "humaneval").is_dir(), reason=f"no benchmark files: {DATA} (set ISHEEP_DATA)")
def test_all_canonical_solutions_pass_and_no_empty_one() -> None:
    isolation = sandbox.find_isolation(unsafe=True)
    rows = read_rows(DATA / "humaneval" / "HumanEval.jsonl.gz")
    problems = [humaneval.problem(row) for row in rows]
    for module, file, column in ((mbpp, "mbpp.jsonl", "text"), (mbpp_sanitized, "sanitized-mbpp.json", "prompt")):
        name = module.BENCHMARK.name
        settings = BenchmarkSettings(name=name, data=str(DATA / "mbpp" / file))
        problems += [mbpp.problem(row) for row in mbpp.load(settings, file, column)[1]]
    right = sandbox.run_all([problem.program(problem.solution) for problem in problems], isolation)
    assert [outcome.passed for outcome in right] == [True] * (164 + 500 + 257)
    nothing = [problem.program("    return None\n" if problem.prefix else "x = 1\n") for problem in problems]
    assert not any(outcome.passed for outcome in sandbox.run_all(nothing, isolation))


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "humaneval").is_dir(), reason=f"no benchmark files: {DATA} (set ISHEEP_DATA)")
def test_all_canonical_solutions_of_humaneval_plus_pass_and_no_empty_one() -> None:
    isolation = sandbox.find_isolation(unsafe=True)
    rows = read_rows(DATA / "humaneval_plus" / "HumanEvalPlus.jsonl.gz")
    assert sum(len(row["plus_input"]) for row in rows) == 122_683
    for row in rows:
        control, (right, empty) = humaneval_plus.judge(row, [row["canonical_solution"], "    pass\n"], isolation)
        assert control.passed and right.base.passed and right.plus.passed, row["task_id"]
        assert not empty.base.passed and not empty.plus.passed, row["task_id"]


# --- lamb


def test_right_content_with_something_wrong_beside_it_is_wrong() -> None:
    counts = {"more": 0, "late": 0}
    for quest in suite()[:200]:
        assert not is_right(quest, quest.right, False), "without an end"
        assert not is_right(quest, "", True)
        counts["more"] += is_right(quest, f"{quest.right} " * 40, True)
    assert counts["more"] == 0


def test_each_benchmark_has_a_twin() -> None:
    covered = {*OPTIONS, *(f"paper/{name}" for name in WRITTEN), *(f"standard/{name}" for name in STANDARD_WRITTEN)}
    covered |= {"humaneval", "humaneval_plus", "mbpp", "mbpp_sanitized", "mt_bench", "alpaca_eval", "alpaca_eval_2"}
    # tests/test_ifeval_checkers.py misses each instruction by one; tests/test_lamb_dialogues.py has second turns.
    assert covered | {"ifeval", "lamb", "lamb_sampled", "lamb_turns"} == set(packaged_names())


@pytest.mark.parametrize("name", STANDARD_WRITTEN)
def test_an_almost_right_answer_is_wrong_by_the_standard_protocol(tmp_path: Path, qwen2: Path, name: str) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: the extra eval")
    data = write_benchmark(tmp_path / "data", name)
    for number, answer in enumerate(("Ann Le", "Bob")):
        entry = context(tmp_path / str(number), qwen2, f"standard/{name}", data, Preferring(answer=answer))
        scores = load_benchmark(f"standard/{name}").run(entry).scores
        assert not any(scores["exact" if name == "squad2" else "exact_match"].items), answer
