"""Which fields of AlpacaEval's and MT-Bench's files change anything: those that are named as read, and no other ones.

Each field is changed in small files of our own. What is compared is all that the model and the judge are asked, the
scores, and the figures and notes beside them.
"""

import csv
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from isheep.benchmarks import alpaca_eval, load_benchmark
from isheep.benchmarks.support import win_rate
from isheep.benchmarks.support.data_fields import DATA_FIELDS
from isheep.benchmarks.support.data_files import read_rows
from isheep.errors import UserError
from isheep.recipe.evaluation import BenchmarkSettings
from tests.helpers.data_fields import changed_contents, changed_everywhere, fields_of
from tests.helpers.judge_server import Answer, known, said, serving
from tests.helpers.judged import alpaca_files, exam, gamed, mt_bench_files, write_lines

Observe = Callable[[Path, str], str]
# How many values of an unused field are tried: three in all places, and one in one place.
MOST_UNUSED = 4
# The name of the model that tests.helpers.judged.exam evaluates.
MODEL = "iter-1"


@pytest.fixture
def observe(tmp_path: Path, qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> Observe:
    """Return a function that gives all that a benchmark makes of a folder of files."""
    runs = 0

    def observed(data: Path, name: str) -> str:
        nonlocal runs
        runs += 1
        prompts: list[str] = []

        def answer(prompt: str, seed: int) -> str:
            prompts.append(prompt)
            return f"said {len(prompt)}"

        with serving(judge) as server:
            known(server, monkeypatch)
            settings = BenchmarkSettings(name=name)
            context = exam(tmp_path / f"run-{runs}", data, qwen2, answer=answer, settings=settings)
            try:
                result = load_benchmark(name).run(context)
            except UserError:
                return "refused"
        # Calls are concurrent.
        requests = sorted(json.dumps(body, sort_keys=True) for body in server.bodies)
        return repr((prompts, requests, result.scores, result.breakdowns, result.details, result.notes))

    return observed


def judge(message: str, earlier: int) -> Answer:
    """Rate by the length of what the judge reads, and prefer the model's output to the reference's."""
    is_first = "{m}: said" in message
    shares = {"m": -0.5, "M": -1.5} if is_first else {"M": -0.7, "m": -1.2}
    top = [{"token": token, "logprob": value} for token, value in shares.items()]
    rank = 1 if is_first else 2
    text = f"[{{'model': 'model_1', 'rank': {rank}}}]" if "{m}" in message else f"[[{1 + len(message) % 9}]]"
    return said(text, logprobs={"content": [{**top[0], "top_logprobs": top}]})


def check_fields(
    rows_by_kind: dict[str, Any], name: str, observe_with: Callable[[str, Any], str], kinds_that_refuse: set[str]
) -> None:
    """Check that each field of a benchmark's files is in its list, and changes something if and only if it is read.

    `observe_with` writes the files with other rows of a kind. In `kinds_that_refuse` a value may be read by being
    refused: a name that fits nothing, or a setting that is not supported.
    """
    fields = DATA_FIELDS[name]
    before = observe_with("", None)
    assert before != "refused"
    for kind, rows in rows_by_kind.items():
        declared = [field for field in (*fields.read, *fields.unused) if field.partition(".")[0] == kind]
        assert set(fields_of([{kind: rows}], declared)) == set(declared), kind
        for field in declared:
            outcomes = (observe_with(kind, changed) for changed in contents(rows, field.partition(".")[2]))
            if field in fields.read:
                unchanged = {before} if kind in kinds_that_refuse else {before, "refused"}
                assert any(outcome not in unchanged for outcome in outcomes), field
            else:
                assert all(outcome == before for outcome in islice(outcomes, MOST_UNUSED)), field


def contents(rows: Any, field: str) -> Iterator[Any]:
    """Yield the rows with the same value of a field in all places, then with another value in one place."""
    yield from changed_everywhere(rows, field, MODEL, "1", "True")
    yield from islice(changed_contents(rows, field), 20)


def test_mt_bench_reads_its_fields_and_no_others(tmp_path: Path, observe: Observe) -> None:
    original = mt_bench_files(tmp_path / "data", 4)
    rows: dict[str, Any] = {kind: read_rows(original / file) for kind, file in MT_BENCH_FILES.items()}
    for question in rows["question"]:
        question["reference"] = ["one", "two"]
    for reference in rows["reference_answer"]:
        reference |= {"answer_id": "abc", "model_id": "gpt-4", "tstamp": 1.5}
        reference["choices"].append({"index": 1, "turns": ["other one", "other two"]})
    for prompt in rows["judge_prompts"]:
        prompt |= {"type": "single", "description": "a prompt", "category": "general", "output_format": "[[rating]]"}

    def observe_with(kind: str, changed: Any) -> str:
        for name, file in MT_BENCH_FILES.items():
            write_lines(original / file, changed if name == kind else rows[name])
        return observe(original, "mt_bench")

    check_fields(rows, "mt_bench", observe_with, set(MT_BENCH_FILES))


MT_BENCH_FILES = {
    "question": "question.jsonl",
    "reference_answer": "reference_answer/gpt-4.jsonl",
    "judge_prompts": "judge_prompts.jsonl",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "version"),
    [("alpaca_eval", alpaca_eval.ONE), ("alpaca_eval_2", alpaca_eval.TWO)],
    ids=["1", "2"],
)
def test_alpaca_eval_reads_its_fields_and_no_others(
    name: str, version: alpaca_eval.Version, tmp_path: Path, observe: Observe
) -> None:
    data = alpaca_files(tmp_path / "data", 6)
    configs = data / "evaluators_configs" / version.config / "configs.yaml"
    rows: dict[str, Any] = {
        "reference": [{**row, "datasplit": "eval"} for row in read_rows(data / version.reference)],
        "df_gamed": list(csv.DictReader(gamed(data, 6).read_text().splitlines())),
        "configs": yaml.safe_load(configs.read_text())[version.config],
    }
    rows["configs"]["is_randomize_output_order"] = True
    rows["configs"]["completions_kwargs"] |= {"num_procs": 5, "price_per_token": 0.1}

    def observe_with(kind: str, changed: Any) -> str:
        current = {**rows, kind: changed}
        (data / version.reference).write_text(json.dumps(current["reference"]))
        configs.write_text(json.dumps({version.config: current["configs"]}))
        with (data / win_rate.GAMED).open("w", newline="") as lines:
            writer = csv.DictWriter(lines, list(current["df_gamed"][0]))
            writer.writeheader()
            writer.writerows(current["df_gamed"])
        return observe(data, name)

    check_fields(rows, name, observe_with, {"configs"})


def test_the_text_of_a_judge_prompt_of_alpaca_eval_is_read(tmp_path: Path, observe: Observe) -> None:
    data = alpaca_files(tmp_path / "data", 2)
    before = observe(data, "alpaca_eval")
    prompt = data / "evaluators_configs" / alpaca_eval.ONE.config / "prompt.txt"
    prompt.write_text(prompt.read_text().replace("Compare.", "Compare the two."))
    assert before != observe(data, "alpaca_eval") != "refused"
