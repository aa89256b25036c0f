"""The standard protocol for the standard benchmarks: lm-eval's own task files and metrics, on our engine.

The tasks have no few-shot examples, as in lm-eval's files. Items come from our data sources, so that every task runs
offline from local files.
"""

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isheep.benchmarks.support.base import Benchmark, Result, Score
from isheep.benchmarks.support.context import EvalContext
from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.responses import ResponseContext, match_rows
from isheep.benchmarks.support.sources import DataSource, load_items, question_texts
from isheep.benchmarks.support.validation_parts import validation_half
from isheep.errors import UserError, describe_exception
from isheep.recipe.evaluation import BenchmarkSettings

if TYPE_CHECKING:
    from isheep.benchmarks.support.engine_lm import EngineLM, RecordedLM

MISSING = "benchmark {name} needs lm-eval: pip install 'isheep[eval]'"

Sample = dict[str, Any]
"""lm-eval's record of an item: its doc_id, metrics, responses."""


@dataclass(frozen=True)
class StandardTask:
    """A benchmark of the standard protocol.

    `folder` is where the task file is, relative to lm-eval's folder of tasks or absolute; `task` is the task's name in
    it. With `by_subject` the rows have a "subject", and each subject runs as lm-eval's task TASK_SUBJECT.
    `needs_logprobs` is False if the task reads answers that the model writes, instead of comparing options.
    """

    name: str
    source: DataSource
    folder: str | Path
    task: str
    by_subject: bool = False
    needs_logprobs: bool = True

    def benchmark(self) -> Benchmark:
        """Return the task as a benchmark."""
        prompts = partial(question_texts, self.source)
        return Benchmark(
            name=self.name,
            run=self.run,
            prompts=prompts,
            score_inputs=self.score_inputs,
            items_from="hub",
            needs_logprobs=self.needs_logprobs,
            validation=validation_half(self.name.rpartition("/")[2], self.run, prompts),
            score_responses=self.score_responses if self.source.response_key else None,
        )

    def score_inputs(self, settings: BenchmarkSettings) -> object:
        """Return the items. Raises UserError if lm-eval is not installed."""
        if not find_spec("lm_eval"):
            raise UserError(MISSING.format(name=self.name))
        return load_items(self.source, settings)

    def run(self, context: EvalContext) -> Result:
        """Score the task's own metrics by item: "acc" and "acc_norm", or "exact_match"."""
        tasks = self.load_tasks(load_items(self.source, context.settings))
        # This module imports lm-eval, which load_tasks has found.
        from isheep.benchmarks.support.engine_lm import EngineLM

        model = EngineLM(context)
        with self.data_errors():
            samples = run_tasks(tasks, model)
        metrics = samples[0]["metrics"]
        fits = [(sample["task"], sample["doc_id"]) not in model.too_long for sample in samples]
        scores = {
            metric: Score(items=[bool(sample[metric]) and fit for sample, fit in zip(samples, fits, strict=True)])
            for metric in metrics
        }
        breakdowns = {}
        if len(tasks) > 1:
            breakdowns["subject"] = self.count_by_subject(samples, scores[metrics[0]].items)
        return Result(
            template=context.template,
            notes=self.source.notes,
            scores=scores,
            breakdowns=breakdowns,
            details={"protocol": "standard", "too_long": len(model.too_long)},
        )

    def score_responses(self, context: ResponseContext) -> Result:
        """Score the answers in a file by the task's own filters and metrics."""
        rows = load_items(self.source, context.settings)
        matched = match_rows(self.source, rows, context)
        tasks = self.load_tasks([rows[index] for index in matched.indices])
        from isheep.benchmarks.support.engine_lm import RecordedLM

        with self.data_errors():
            samples = run_tasks(tasks, RecordedLM(matched.texts))
        metrics = samples[0]["metrics"]
        return Result(
            template=context.template,
            notes=(*self.source.notes, *matched.notes),
            scores={metric: Score(items=[bool(sample[metric]) for sample in samples]) for metric in metrics},
            details={"protocol": "standard"},
        )

    @contextmanager
    def data_errors(self) -> Iterator[None]:
        """Turn the exceptions by which lm-eval's task refuses an item into one line that names the benchmark's data."""
        try:
            yield
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"benchmark {self.name}: lm-eval can't read an item of the data ({describe_exception(error)}): check "
                "the options and the answers of the items"
            ) from error

    def count_by_subject(self, samples: Sequence[Sample], right: Sequence[float | None]) -> dict[str, tuple[int, int]]:
        """Return (right, all) of each subject."""
        by_subject: dict[str, list[bool]] = {}
        for sample, value in zip(samples, right, strict=True):
            by_subject.setdefault(sample["task"].removeprefix(f"{self.task}_"), []).append(bool(value))
        return {subject: (sum(values), len(values)) for subject, values in by_subject.items()}

    def load_tasks(self, rows: list[DataRow]) -> dict[str, Any]:
        """Return lm-eval's task objects by their names, on these rows. Raises UserError for an unknown subject."""
        try:
            import lm_eval
            from lm_eval.tasks import TaskManager
        except ImportError:
            raise UserError(MISSING.format(name=self.name)) from None
        # It reports each of its defaults.
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        folder = Path(lm_eval.__file__).parent / "tasks" / self.folder
        manager = TaskManager(include_defaults=False, include_path=str(folder))
        parts = {self.task: rows}
        if self.by_subject:
            subjects = sorted({str(row["subject"]) for row in rows})
            parts = {f"{self.task}_{subject}": [r for r in rows if r["subject"] == subject] for subject in subjects}
            if unknown := sorted(parts.keys() - set(manager.all_tasks)):
                subject = unknown[0].removeprefix(f"{self.task}_")
                raise UserError(f"benchmark {self.name}: {subject!r} is no subject of {self.task.upper()}")
        # The manager overrides values of a task's file only for members of a group.
        members = [{"task": name, "custom_dataset": partial(_splits, part)} for name, part in parts.items()]
        with _without_progress_bars(), self.data_errors():
            tasks: dict[str, Any] = manager.load({"group": "isheep", "task": members})["tasks"]
            for task in tasks.values():
                _fix_order(task)
        return tasks


def _fix_order(task: Any) -> None:
    """Shuffle the choices of GPQA once, from the seed that lm-eval uses, instead of whenever its items are read."""
    if task.config.process_docs is not None:
        task.config.process_docs = cache(task.config.process_docs)
        state = random.getstate()
        random.seed(0)
        _ = task.eval_docs
        random.setstate(state)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Switch off the bars of datasets and of lm-eval's tasks, which are shown even if there is no terminal."""
    from datasets import disable_progress_bars, enable_progress_bars
    from lm_eval.api import task as task_module

    original = task_module.tqdm
    task_module.tqdm = _plain_iterator
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
        task_module.tqdm = original


def _plain_iterator(rows: Any, **unused: Any) -> Any:
    return rows


def _splits(rows: list[DataRow], **unused: Any) -> dict[str, Any]:
    """Return the same rows under each name that a task may look for; without examples only the test split is read."""
    from datasets import Dataset

    return dict.fromkeys(("train", "validation", "test", "dev"), Dataset.from_list(rows))


def run_tasks(tasks: Mapping[str, Any], model: "EngineLM | RecordedLM") -> list[Sample]:
    """Return lm-eval's samples in the order of the items, each with the name of its "task"."""
    from lm_eval.evaluator import evaluate

    with _without_progress_bars():
        results: Any = evaluate(
            model,
            {"tasks": dict(tasks), "groups": {}, "group_map": {}},
            bootstrap_iters=0,
            apply_chat_template=model.uses_template,
        )
    return [{**sample, "task": name} for name in tasks for sample in results["samples"][name]]
