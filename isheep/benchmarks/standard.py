"""The standard benchmarks by the standard protocol: lm-eval's own task files and metrics, on our engine.

The tasks are lm-eval's without examples, as their files have them; OpenBookQA with its fact is a file of ours
(tasks/standard/), SQuAD 2.0 is in squad2.py, since lm-eval loads its metric from the Hub. Items come from items.py, so
that every task runs offline from local files.
"""

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from isheep.batching import ordered_map
from isheep.benchmarks import squad2
from isheep.benchmarks.items import load, notes, questions
from isheep.benchmarks.options import OptionScores, logprobs, ready, too_long
from isheep.benchmarks.originals import DataRow
from isheep.benchmarks.support.base import Benchmark, Result, Score
from isheep.benchmarks.support.context import EvalContext, data_path
from isheep.benchmarks.support.fingerprints import check_unchanged, item_fingerprints
from isheep.errors import UserError
from isheep.models.chat_template import render_conversation
from isheep.recipe.schema import BenchmarkSettings
from isheep.records import Sampling

OURS = Path(__file__).parent / "tasks" / "standard"
SIZE = 64  # requests in a batch
TOKENS = 256  # lm-eval's own limit for an answer
MISSING = "benchmark standard/{name} needs lm-eval: pip install 'isheep[eval]'"
LOST = -1e9  # stands for the log-probability of what does not fit; its item is wrong whatever comes out
TASKS = {  # lm-eval's folder of task files, and the task's name in it
    "boolq": ("super_glue/boolq", "boolq"),
    "piqa": ("piqa", "piqa"),
    "siqa": ("siqa", "social_iqa"),
    "gpqa_diamond": ("gpqa/zeroshot", "gpqa_diamond_zeroshot"),
    "hellaswag": ("hellaswag", "hellaswag"),
    "winogrande": ("winogrande", "winogrande"),
    "arc_easy": ("arc", "arc_easy"),
    "arc_challenge": ("arc", "arc_challenge"),
    "openbookqa_fact": ("", "openbookqa_fact"),
    "commonsense_qa": ("commonsense_qa", "commonsense_qa"),
    "mmlu": ("mmlu/default", "mmlu"),
    "nq": ("nq_open", "nq_open"),
    "triviaqa": ("triviaqa", "triviaqa"),
}


def task(name: str) -> Benchmark:
    """Return the benchmark `standard/name`."""
    return Benchmark(
        name=f"standard/{name}",
        run=partial(run, name),
        prompts=lambda settings: questions(name, data_path(settings)),
        score_inputs=partial(score_inputs, name),
        items_from="hub",
        needs_logprobs=True,
    )


def run(name: str, context: EvalContext) -> Result:
    """Score the task's own metrics by item: "acc", "acc_norm" or "exact_match"; of SQuAD 2.0 "exact" and "f1"."""
    rows = load(name, context.data)
    result = squad2.run(context, rows) if name == "squad2" else run_lm_eval(name, context, rows)
    details = {"protocol": "standard", **result.details}
    return result.model_copy(update={"template": context.template, "notes": notes(name), "details": details})


def run_lm_eval(name: str, context: EvalContext, rows: list[DataRow]) -> Result:
    tasks = built(name, rows)
    lost: set[tuple[str, int]] = set()
    samples = evaluated(tasks, context, lost)
    metrics = samples[0]["metrics"]
    items = {
        metric: [bool(sample[metric]) and (sample["task"], sample["doc_id"]) not in lost for sample in samples]
        for metric in metrics
    }
    breakdowns = {}
    if len(tasks) > 1:
        by_subject: dict[str, list[bool]] = {}
        for sample, right in zip(samples, items[metrics[0]], strict=True):
            by_subject.setdefault(sample["task"].removeprefix(f"{name}_"), []).append(right)
        breakdowns["subject"] = {subject: (sum(values), len(values)) for subject, values in by_subject.items()}
    scores = {metric: Score(items=values) for metric, values in items.items()}
    return Result(scores=scores, breakdowns=breakdowns, details={"too_long": len(lost)})


def score_inputs(name: str, settings: BenchmarkSettings) -> object:
    if name in TASKS and not find_spec("lm_eval"):
        raise UserError(MISSING.format(name=name))
    return load(name, data_path(settings))


def built(name: str, rows: list[DataRow]) -> dict[str, Any]:
    """lm-eval's task objects by their names, on these rows; MMLU has one for each subject."""
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UserError(MISSING.format(name=name)) from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it reports each of its defaults
    folder, label = TASKS[name]
    path = Path(lm_eval.__file__).parent / "tasks" / folder if folder else OURS
    manager = TaskManager(include_defaults=False, include_path=str(path))
    parts = {label: rows}
    if name == "mmlu":
        subjects = sorted({str(row["subject"]) for row in rows})
        parts = {f"mmlu_{subject}": [row for row in rows if row["subject"] == subject] for subject in subjects}
        if unknown := sorted(parts.keys() - set(manager.all_tasks)):
            raise UserError(f"benchmark standard/mmlu: {unknown[0].removeprefix('mmlu_')!r} is no subject of MMLU")
    # As parts of a group its manager lays values over the tasks' files.
    changed = [{"task": part, "custom_dataset": partial(_splits, some)} for part, some in parts.items()]
    with _quiet():
        found: dict[str, Any] = manager.load({"group": "isheep", "task": changed})["tasks"]
        for one in found.values():
            _settle(one)
    return found


def _settle(task: Any) -> None:
    """GPQA's choices are shuffled whenever a task is asked for its items: once, from the seed that lm-eval takes."""
    if task.config.process_docs is not None:
        task.config.process_docs = cache(task.config.process_docs)
        state = random.getstate()
        random.seed(0)
        _ = task.eval_docs
        random.setstate(state)


@contextmanager
def _quiet() -> Iterator[None]:
    """datasets shows a bar for each of its steps, even where no terminal is."""
    from datasets import disable_progress_bars, enable_progress_bars

    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _splits(rows: list[DataRow], **unused: Any) -> dict[str, Any]:
    """The same rows under each name that a task may look for; without examples only the tested one is read."""
    from datasets import Dataset

    return dict.fromkeys(("train", "validation", "test", "dev"), Dataset.from_list(rows))


def evaluated(tasks: dict[str, Any], exam: EvalContext, lost: set[tuple[str, int]]) -> list[dict[str, Any]]:
    """lm-eval's samples in the order of the items, each with its "task". What does not fit is put into `lost`."""
    from lm_eval.api import task as module
    from lm_eval.evaluator import evaluate

    module.tqdm = lambda rows, **unused: rows  # a bar of its own, even where no terminal is
    with _quiet():
        found: Any = evaluate(
            door(exam, lost),
            {"tasks": tasks, "groups": {}, "group_map": {}},
            bootstrap_iters=0,
            apply_chat_template=not exam.is_base,
        )
    return [{**sample, "task": name} for name in tasks for sample in found["samples"][name]]


def door(exam: EvalContext, lost: set[tuple[str, int]]) -> Any:
    """Our engine as lm-eval sees a model. Whether a continuation is the greedy one, no task here asks."""
    from lm_eval.api.model import LM

    class Ours(LM):  # type: ignore[misc]
        tokenizer_name = ""  # a key of its cache, which is not used

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            pairs = [_spaced(*one.args) for one in requests]
            about, path = item_fingerprints(pairs), exam.folder.path / "losses.jsonl"
            ready(exam.engine)

            def made(start: int) -> list[OptionScores]:
                found = logprobs(exam.engine, *zip(*pairs[start : start + SIZE], strict=True))
                sums = (None if one is None else -sum(one.logprobs) for one in found)
                return [OptionScores(values=(one,), of=about[start + n]) for n, one in enumerate(sums)]

            def owed(done: Sequence[OptionScores]) -> Iterator[list[OptionScores]]:
                check_unchanged(path, done, about)
                return ordered_map(made, range(len(done), len(pairs), SIZE), exam.engine.at_once)

            rows = exam.folder.records(path.name, OptionScores, owed, SIZE, len(pairs))
            check_unchanged(path, rows, about)
            too_long(exam.folder, rows)
            for one, row in zip(requests, rows, strict=True):
                if row.lowest is None:
                    lost.add((one.task_name, one.doc_id))
            return [(LOST if value is None else -value, False) for row in rows for value in row.values]

        def generate_until(self, requests: list[Any]) -> list[str]:
            stops = tuple(requests[0].args[1]["until"])
            ends = stops if exam.is_base else (*stops, exam.chat.end)
            sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=TOKENS, stop=ends)
            return [answer.output for answer in exam.answers([one.args[0] for one in requests], sampling)]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            raise NotImplementedError("no task here asks for it")

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            turns = [(turn["role"], exam.chat.plain(turn["content"])) for turn in chat_history]
            return render_conversation(exam.chat.tokenizer, exam.chat.template, turns, add_generation_prompt)

    return Ours()


def _spaced(context: str, continuation: str) -> tuple[str, str]:
    """White space at the end of a context belongs to the continuation's first token, as in lm-eval's own models."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation
