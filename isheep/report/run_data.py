"""What a report needs of a run folder: `load_run_data` opens it, and each part is read once, when it is first used."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from isheep.diagnostics.diversity import read_diversity
from isheep.diagnostics.judge_calibration import CALIBRATION_FILE
from isheep.errors import UserError
from isheep.evaluation.score_rows import BenchmarkScores, evaluated_benchmarks, load_scores, started_iterations
from isheep.evaluation.stopping import is_last_iteration
from isheep.filters.score import ScoreFilter
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Drop, Pair, Record, Rejected, Reply
from isheep.report.reference import ReferenceTexts
from isheep.rundir.artifacts import iteration_name, stage_of
from isheep.rundir.events import read_events
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import (
    RunResult,
    find_run_result,
    iteration_dir,
    newest_iteration,
    parse_run_file,
)
from isheep.rundir.jsonl import filter_rows
from isheep.rundir.lock import is_locked
from isheep.rundir.run import open_run
from isheep.rundir.stage_times import stage_seconds
from isheep.trainers.adapter_dir import TRAINING_RECORD

R = TypeVar("R", bound=Record)

# A file with more rows is read from the disk again whenever its rows are needed.
MOST_ROWS_IN_MEMORY = 50_000


class StageCost(NamedTuple):
    """What a stage of an iteration took in this run. None: not known.

    `tokens` are those that the model wrote (instructions and answers; those of ratings are not recorded). `peak_memory`
    is the most that the process held while the stage was at work, in bytes. `is_shared`:
    a file was copied from another run, so that the seconds are not those of making it. `is_partial`: the stage was
    interrupted, and the seconds are those of the last try.
    """

    iteration: int
    stage: str
    seconds: float
    tokens: int | None
    peak_memory: int | None
    is_shared: bool
    is_partial: bool


@dataclass(frozen=True)
class IterationData:
    """The files of an iteration, each read once if it is not too long. What is not there yet is empty or None.

    `recipe` is the recipe as the iteration has it (its own settings applied).
    """

    number: int
    recipe: Recipe
    folder: RunFolder

    @cached_property
    def pairs(self) -> Sequence[Pair]:
        """The pairs of the iteration, D_raw^t; AssessedPair with grades where they are rated.

        Raises UserError if another number of pairs is rated than there are.
        """
        pairs, rated = self._read("pairs.jsonl", Pair), self._read("assessed.jsonl", AssessedPair)
        if not self.folder.has("assessed.jsonl"):
            return pairs
        if self.folder.has("pairs.jsonl") and len(pairs) != len(rated):
            raise UserError(
                f"{self.folder.path / 'assessed.jsonl'}: {len(rated)} rated pairs, and pairs.jsonl has {len(pairs)}; "
                "put the file back as it was, or delete it to have it made again"
            )
        return rated

    @property
    def assessed(self) -> Sequence[AssessedPair]:
        """The pairs with their grades; empty without ratings."""
        return cast(Sequence[AssessedPair], self.pairs) if self.folder.has("assessed.jsonl") else ()

    @cached_property
    def drops(self) -> dict[str, Drop]:
        """Why a pair is not trained on, by its id."""
        return {drop.row: drop for drop in self._read("dropped.jsonl", Drop)}

    @property
    def is_filtered(self) -> bool:
        return self.folder.has("dropped.jsonl")

    @cached_property
    def kept(self) -> Sequence[Pair]:
        """The pairs that no filter dropped, D^t; empty before they are filtered."""
        return filter_rows(self.pairs, lambda pair: pair.id not in self.drops) if self.is_filtered else ()

    @cached_property
    def rejected(self) -> Sequence[Rejected]:
        """The candidates that became no task, and the instances that became no pair."""
        tasks, instances = (self._read(name, Rejected) for name in ("rejected.jsonl", "unanswered.jsonl"))
        return [*tasks, *instances] if instances else tasks

    @cached_property
    def diversity(self) -> dict[str, Any] | None:
        """The content of diversity.json."""
        return read_diversity(RunFolder(self.folder.root, self.folder.root), self.number)

    @cached_property
    def training(self) -> dict[str, Any] | None:
        """The content of adapter/training.json: rows, steps, loss and eval_loss as lists of [step, loss]."""
        path = f"adapter/{TRAINING_RECORD}"
        return self.folder.json(path, dict) if self.folder.has(path) else None

    @cached_property
    def calibration(self) -> dict[str, Any] | None:
        """The content of judge_calibration.json."""
        return self.folder.json(CALIBRATION_FILE, dict) if self.folder.has(CALIBRATION_FILE) else None

    @property
    def criteria(self) -> tuple[str, ...]:
        """The criteria that the pairs are rated by; empty without ratings."""
        return tuple(self.assessed[0].grades) if self.assessed else ()

    def scores(self, criterion: str) -> list[float | None]:
        """Return the rating of each pair by a criterion, None if it can't be read."""
        return [pair.grades[criterion].score if criterion in pair.grades else None for pair in self.assessed]

    def score_filter(self, criterion: str) -> ScoreFilter | None:
        """Return the recipe's first score filter of a criterion: the threshold C."""
        for rule in self.recipe.filters:
            if isinstance(rule, ScoreFilter) and (rule.criteria is None or criterion in rule.criteria):
                return rule
        return None

    def _read(self, name: str, row_type: type[R]) -> Sequence[R]:
        if not self.folder.has(name):
            return ()
        rows = self.folder.read(name, row_type)
        return rows if len(rows) > MOST_ROWS_IN_MEMORY else list(rows)


@dataclass(frozen=True)
class RunData:
    """A run folder as a report reads it: recipe, iterations, scores, costs. Nothing is written.

    `is_under_way`: a process works on the run at this moment. `reference`: the texts of the user's choice that Figure 4
    compares the generated pairs with; None: the run's own seed tasks.
    """

    path: Path
    recipe: Recipe
    folder: RunFolder
    is_under_way: bool
    reference: ReferenceTexts | None = None

    @property
    def name(self) -> str:
        """The name of the run folder, without the path, which belongs to the machine."""
        return self.path.resolve().name

    @cached_property
    def numbers(self) -> list[int]:
        """0 for the base model, and the iterations that have begun."""
        return started_iterations(self.recipe, self.folder)

    @cached_property
    def iterations(self) -> list[IterationData]:
        """The iterations that have begun, from 1 on."""
        return [IterationData(t, self.recipe.at(t), iteration_dir(self.folder, t)) for t in self.numbers if t]

    @cached_property
    def result(self) -> RunResult:
        """The iteration that is the result of the run, and why."""
        return find_run_result(self.recipe, self.folder)

    @cached_property
    def num_trained(self) -> int:
        """The last iteration that has a trained model."""
        return newest_iteration(self.recipe, self.folder)

    @cached_property
    def is_finished(self) -> bool:
        return is_last_iteration(self.recipe, self.folder, self.num_trained)

    @cached_property
    def benchmarks(self) -> list[BenchmarkScores]:
        """The scores of the base and of each iteration, a record for each benchmark that a model was scored on."""
        names = evaluated_benchmarks(self.recipe, self.folder, self.numbers)
        result = self.result.iteration if self.recipe.stop_rule and self.num_trained else None
        scores = [load_scores(self.folder, self.numbers, name, result) for name in names]
        return [benchmark for benchmark in scores if any(benchmark.results)]

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The events of run.jsonl."""
        return read_events(self.folder.root)

    @cached_property
    def costs(self) -> list[StageCost]:
        """The time, tokens and memory of each stage that has an event, by iteration and in the order of execution."""
        timing = stage_seconds(self.folder)
        memory: dict[tuple[str, str], int] = {}
        keys: dict[tuple[str, str], bool] = {}
        for event in self.events:
            folder, _, file = str(event.get("file", "")).partition("/")
            if not folder or folder not in map(iteration_name, self.numbers):
                continue
            key = (folder, stage_of(file))
            keys[key] = "shared_from" in event
            peak = event.get("peak_memory") or {}
            memory[key] = max(memory.get(key, 0), int(peak.get("cuda") or peak.get("resident") or 0))
        return [
            StageCost(
                iteration=parse_run_file(f"{folder}/")[0],
                stage=stage,
                seconds=timing.seconds.get((folder, stage), 0.0),
                tokens=self._tokens.get((folder, stage)),
                peak_memory=memory[folder, stage] or None,
                is_shared=is_shared,
                is_partial=(folder, stage) in timing.resumed,
            )
            for (folder, stage), is_shared in keys.items()
        ]

    @cached_property
    def _tokens(self) -> dict[tuple[str, str], int]:
        """The tokens that the model wrote in a stage, counted in the rows, which also holds for a resumed file."""
        tokens: dict[tuple[str, str], int] = {}
        for iteration in self.iterations:
            name, folder = iteration_name(iteration.number), iteration.folder
            if folder.has("replies.jsonl"):
                tokens[name, "instructions"] = sum(reply.tokens for reply in folder.read("replies.jsonl", Reply))
            if iteration.pairs:
                tokens[name, "answers"] = sum(pair.tokens for pair in iteration.pairs)
        return tokens


def load_run_data(path: Path, is_under_way: bool | None = None) -> RunData:
    """Open a run folder for a report. Raises UserError if it is none.

    `is_under_way` of None asks whether a process holds the lock of the run.
    """
    recipe, folder = open_run(path)
    return RunData(path, recipe, folder, is_locked(path) if is_under_way is None else is_under_way)
