"""Every field of a benchmark's data is read, or named as unused; a benchmark that ignores a part of its data is found.

Each field is changed in a file of a few items. The prompts that a model or a judge reads, the scores and the control
must change for a field that is read, and must not for another one.
"""

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from isheep.benchmarks import EvalContext, load_benchmark
from isheep.benchmarks.support.data_fields import DATA_FIELDS
from isheep.benchmarks.support.data_files import read_rows
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.models.chat_template import load_chat_template
from isheep.recipe.benchmark_names import packaged_names
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Sampling, TokenLogprobs
from isheep.rundir.folder import RunFolder
from tests.helpers.benchmark_files import BENCHMARK_FILES, DEV, HUMANEVAL_TASK, LABELS, TRAIN, mbpp_task
from tests.helpers.data_fields import changed_contents, fields_of, places
from tests.helpers.data_files import DATA

Rows = list[dict[str, Any]]
FLOAT_TASK = {
    "task_id": "Own/9", "entry_point": "third", "prompt": 'def third(n):\n    """A third of n."""\n',
    "canonical_solution": "    return n / 3\n", "test": "def check(f):\n    assert abs(f(3) - 1) < 0.1\n",
    "contract": "", "base_input": [[3]], "plus_input": [[5]], "atol": 0,
}  # fmt: skip
IFEVAL = [
    {"key": 1, "prompt": "Write two words.", "instruction_id_list": ["length_constraints:number_words"],
     "kwargs": [{"num_words": 3, "relation": "less than"}]},
    {"key": 2, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
]  # fmt: skip
SANITIZED = [
    {key: value for key, value in {**mbpp_task(n), "prompt": f"Add {n}.", "test_imports": ["import math"],
     "source_file": "a.ipynb", "test_list": [f"assert add(math.floor(1)) == {1 + n}"]}.items()
     if key not in ("text", "test_setup_code", "challenge_test_list")}
    for n in (2, 3, 4, 100, 101)
]  # fmt: skip
MBPP = [mbpp_task(2), mbpp_task(3), mbpp_task(4), mbpp_task(11, test_setup_code="x = 1"), mbpp_task(12)]
OWN_ITEMS: dict[str, tuple[str, Any]] = {
    "ifeval": ("input_data.jsonl", IFEVAL),
    "humaneval": ("h.jsonl", [HUMANEVAL_TASK]),
    "humaneval_plus": ("h.jsonl", [FLOAT_TASK]),
    "mbpp": ("mbpp.jsonl", MBPP),
    "mbpp_sanitized": ("sanitized-mbpp.json", SANITIZED),
}
# What the model answers, to tell a changed reference or test from the one before.
ANSWERS = {
    "ifeval": "one two", "humaneval": "return 2 * n", "humaneval_plus": "return n / 3 + 1e-5", "nq": "Ann Lee",
    "mbpp": "def add(n):\n    return n + 11", "mbpp_sanitized": "def add(n):\n    return n + 100",
    "triviaqa": "Ann", "squad2": "Ann", "gpqa_diamond": "The answer is (A)",
}  # fmt: skip
# How many values of an unused field are tried.
MOST_UNUSED = 4


class FirstOption(SeededFunctionEngine):
    """Finds all options equally likely, so that the first one wins; remembers what it reads."""

    def __init__(self, answer: str) -> None:
        super().__init__(lambda prompt, seed: answer)
        self.seen: list[str] = []

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> Any:
        self.seen += prompts
        return super().generate(prompts, sampling, seed)

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        self.seen += [prompt + output for prompt, output in zip(prompts, outputs, strict=True)]
        return [TokenLogprobs([0] * 4, [-1.0] * 4) for _ in prompts]


# --- what a benchmark makes of a file


def write_items(folder: Path, file: str, content: Any, short: str) -> Path:
    folder.mkdir(parents=True)
    path = folder / file
    if file.endswith(".csv"):
        with path.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, list(content[0]))
            writer.writeheader()
            writer.writerows(content)
    elif short == "mmlu":
        for part, rows in {"test": content, "dev": [dict(zip("qABCDa", row, strict=True)) for row in DEV]}.items():
            (path / part).mkdir(parents=True)
            with (path / part / f"anatomy_{part}.csv").open("w", newline="") as lines:
                csv.writer(lines).writerows([list(row.values()) for row in rows])
        return path / "test"
    elif short in LABELS:
        path.write_text("\n".join(json.dumps({k: v for k, v in row.items() if k != "labels"}) for row in content))
        (folder / LABELS[short][0]).write_text("".join(f"{row['labels']}\n" for row in content))
    else:
        path.write_text("\n".join(map(json.dumps, content)) if file.endswith(".jsonl") else json.dumps(content))
    if short == "commonsense_qa":
        (folder / "train_rand_split.jsonl").write_text("\n".join(map(json.dumps, TRAIN)))
    return path


def items_of(name: str) -> tuple[str, Any]:
    """Return the file name and the content of a benchmark's few items, labels and columns as fields."""
    short = name.rpartition("/")[2]
    if name in OWN_ITEMS:
        return OWN_ITEMS[name]
    file, content = BENCHMARK_FILES[short]
    if short == "mmlu":
        names = ("question", "A", "B", "C", "D", "answer")
        return "data", [dict(zip(names, content["anatomy_test.csv"][0], strict=True)),
                        dict(zip(names, content["college_physics_test.csv"][0], strict=True))]  # fmt: skip
    if short in LABELS:
        labels = LABELS[short][1].split()
        return file, [{**row, "labels": int(label)} for row, label in zip(content, labels, strict=True)]
    return file, content


@pytest.fixture
def observe(tmp_path: Path, qwen2: Path) -> Callable[[str, str, Any], Any]:
    """Return a function that gives all that a benchmark makes of a content: prompts, scores, details."""
    chat = load_chat_template("qwen", str(qwen2))
    runs = 0

    def observed(name: str, file: str, content: Any) -> Any:
        nonlocal runs
        runs += 1
        short = name.rpartition("/")[2]
        path = write_items(tmp_path / f"data-{runs}", file, content, short)
        folder = RunFolder(tmp_path / f"run-{runs}" / "eval" / "own", tmp_path / f"run-{runs}")
        folder.path.mkdir(parents=True)
        engine = FirstOption(ANSWERS.get(short, ""))
        settings = BenchmarkSettings(name=name, data=str(path))
        context = EvalContext(engine, chat, 1, folder, settings, False, unsafe_code=True)
        try:
            result = load_benchmark(name).run(context)
        except (UserError, LookupError, ValueError):
            return "refused"
        return engine.seen, result.scores, result.breakdowns, result.details

    return observed


JUDGED = ("mt_bench", "alpaca_eval", "alpaca_eval_2")
WITHOUT_DATA = ("lamb", "lamb_sampled", "lamb_turns")
NAMES = [name for name in packaged_names() if name not in (*JUDGED, *WITHOUT_DATA)]
# Running the code of many programs takes long, and so does lm-eval.
STANDARD = [name for name in NAMES if name.startswith("standard/")]
SLOW = {*STANDARD, "mbpp", "mbpp_sanitized"} - {"standard/piqa", "standard/squad2"}


def test_every_benchmark_has_its_fields() -> None:
    assert set(DATA_FIELDS) == set(packaged_names()) - {*WITHOUT_DATA}
    assert not [name for name, fields in DATA_FIELDS.items() if set(fields.read) & set(fields.unused)]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NAMES])
def test_each_field_is_read_or_named_as_unused(name: str, observe: Callable[[str, str, Any], Any]) -> None:
    if name.startswith("standard/") or name == "ifeval":
        pytest.importorskip("lm_eval", reason="lm-eval is not installed: the extra eval")
    if name == "ifeval" and not has_punkt():
        pytest.skip("NLTK's punkt_tab is not on this machine (set NLTK_DATA)")
    file, content = items_of(name)
    fields = DATA_FIELDS[name]
    declared = (*fields.read, *fields.unused)
    assert set(fields_of(content, declared)) <= set(declared)
    before = observe(name, file, content)
    assert before != "refused"
    for field in declared:
        observations = (observe(name, file, changed) for changed in changed_contents(content, field))
        # A field that is not read must change nothing by its first few values; one that is read, by one of all.
        limit = None if field in fields.read else MOST_UNUSED
        found_change = any(after not in ("refused", before) for after in islice(observations, limit))
        exists = any(True for _ in places(content, field.split(".")))
        assert found_change == (field in fields.read and exists), field
        assert exists or field in fields.unused, f"no item has {field}"


def has_punkt() -> bool:
    """Return whether NLTK finds the data that splits a text into sentences."""
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return False
    return True


# --- the originals


ORIGINALS = {
    "ifeval": "ifeval/input_data.jsonl", "humaneval": "humaneval/HumanEval.jsonl.gz", "mbpp": "mbpp/mbpp.jsonl",
    "humaneval_plus": "humaneval_plus/HumanEvalPlus.jsonl.gz", "mbpp_sanitized": "mbpp/sanitized-mbpp.json",
    "paper/piqa": "piqa/valid.jsonl", "standard/piqa": "piqa/valid.jsonl", "paper/nq": "nq_open/NQ-open.dev.jsonl",
    "paper/squad2": "squad2/cs224n_dev-v2.0.json", "standard/squad2": "squad2/cs224n_dev-v2.0.json",
    "paper/commonsense_qa": "commonsenseqa/dev_rand_split.jsonl",
}  # fmt: skip


@pytest.mark.skipif(not (DATA / "humaneval").is_dir(), reason=f"no benchmark files: {DATA} (set ISHEEP_DATA)")
def test_the_originals_have_no_other_fields() -> None:
    for name, file in ORIGINALS.items():
        fields = DATA_FIELDS[name]
        declared = (*fields.read, *fields.unused)
        if name.endswith("commonsense_qa"):
            # This copy has the Hub's form, in which nothing is nested in "question".
            declared = tuple(field.removeprefix("question.").replace("stem", "question") for field in declared)
        content = (gzip.decompress if file.endswith(".gz") else bytes)((DATA / file).read_bytes()).decode()
        rows = json.loads(content) if file.endswith(".json") else [json.loads(line) for line in content.splitlines()]
        assert set(fields_of(rows, declared)) <= set(declared), name
    fields = DATA_FIELDS["mt_bench"]
    for file in ("question", "reference_answer/gpt-4", "judge_prompts"):
        kind = file.partition("/")[0]
        rows = [{kind: row} for row in read_rows(DATA / "mt_bench" / f"{file}.jsonl")]
        declared = (*fields.read, *fields.unused)
        assert set(fields_of(rows, declared)) <= set(declared), file
