"""What the items of the rigor sheet are answered from: the run folders, grouped in settings, and their scores."""

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from isheep.benchmarks import Score
from isheep.report.rigor.overlaps import RunOverlap, measure_overlaps
from isheep.report.run_data import RunData
from isheep.report.score_tables import ModelKey, ScoreCell, ScoreColumn, ScoreTable
from isheep.report.settings import Setting, group_settings
from isheep.rundir.iterations import model_words

Verdict = Literal["answered", "partly", "not done"]
# The most lines of figures in an answer.
MAX_LINES = 8


class RigorAnswer(NamedTuple):
    """The answer to an item: a verdict, sentences and figures, one in a line, and where to look.

    `command` would answer what is not answered.
    """

    verdict: Verdict
    lines: Sequence[str]
    look: str = ""
    command: str = ""


class ScoredResult(NamedTuple):
    """A score of the result of a setting: the main score of a benchmark, over the seeds of the setting.

    `reference` are the scores of the base by seed, on the same items.
    """

    setting: Setting
    iteration: int
    column: ScoreColumn
    cell: ScoreCell
    reference: Mapping[int, Score]

    @property
    def score_name(self) -> str:
        return " ".join(self.column)

    @property
    def name(self) -> str:
        return f"{self.setting.name}, {model_words(self.iteration)}, {self.score_name}"


@dataclass(frozen=True)
class Evidence:
    """Run folders as the rigor sheet reads them. Nothing is written."""

    runs: Sequence[RunData]

    @cached_property
    def settings(self) -> list[Setting]:
        """The settings: runs that differ in their random seed alone are one."""
        return group_settings(self.runs)

    @cached_property
    def scores(self) -> ScoreTable | None:
        """The headline scores of all models, compared with the base, all tests corrected together; None without any."""
        return ScoreTable(self.settings) if any(run.benchmarks for run in self.runs) else None

    @cached_property
    def results(self) -> list[ScoredResult]:
        """The main score of each benchmark for the result of each setting that is scored."""
        return [result for index in range(len(self.settings)) for result in self._results_of(index)]

    def _results_of(self, index: int) -> Iterator[ScoredResult]:
        if self.scores is None:
            return
        setting = self.settings[index]
        scored = [key.iteration for key in self.scores.results if key.setting == index and key.iteration]
        if not scored:
            return
        chosen = setting.runs[0].result.iteration if setting.runs[0].recipe.stop_rule else max(scored)
        iteration = chosen if chosen in scored else max(scored)
        for column in self.main_columns:
            key = ModelKey(index, iteration)
            if cell := self.scores.cells.get((key, column)):
                yield ScoredResult(setting, iteration, column, cell, self.scores.reference_scores(key, column))

    @cached_property
    def main_columns(self) -> list[ScoreColumn]:
        """The first headline score of each benchmark."""
        columns = self.scores.columns if self.scores else []
        return list({benchmark: (benchmark, score) for benchmark, score in reversed(columns)}.values())[::-1]

    @cached_property
    def compared(self) -> list[ScoredResult]:
        """The results that are compared with their base."""
        return [item for item in self.results if item.cell.comparison and not math.isnan(item.cell.comparison.p)]

    @cached_property
    def overlaps(self) -> list[RunOverlap]:
        """The overlap of each run's generated pairs with each benchmark of its recipe."""
        return [item for run in self.runs for item in measure_overlaps(run)]

    @cached_property
    def stop_benchmarks(self) -> list[str]:
        """The benchmarks whose validation items a stop rule reads."""
        return sorted({run.recipe.stop_rule.benchmark for run in self.runs if run.recipe.stop_rule})

    def name_of(self, run: RunData) -> str:
        """Return the name of a run's folder, with that of the folder above if another run has the same name."""
        is_unique = [member.name for member in self.runs].count(run.name) == 1
        return run.name if is_unique else f"{run.path.resolve().parent.name}/{run.name}"


def seed_command(run: RunData, seeds: Iterable[int]) -> str:
    """Return the command that repeats a run with another random seed than those."""
    seed = max(seeds) + 1
    return run_command(run, f"seed={seed}", name=f"seed-{seed}")


def run_command(run: RunData, *overrides: str, name: str) -> str:
    """Return the command that runs the recipe of a run with other settings in a folder beside it.

    A folder that is named after its seed has a neighbour that is named after another one.
    """
    is_of_seed = run.name == f"seed-{run.recipe.seed}" and name.startswith("seed-")
    out = run.path.parent / (name if is_of_seed else f"{run.name}-{name}")
    return shlex.join(["isheep", "run", str(run.path / "recipe.yaml"), *overrides, "--out", str(out)])


def command_on(verb: str, path: Path, *words: str) -> str:
    """Return an isheep command on a run folder."""
    return shlex.join(["isheep", verb, str(path), *words])


def shorten(lines: Iterable[str], where: str = "--json") -> list[str]:
    """Return the first lines, and one that says how many more there are."""
    lines = list(lines)
    if len(lines) <= MAX_LINES:
        return lines
    return [*lines[: MAX_LINES - 1], f"... and {len(lines) - MAX_LINES + 1} more: {where}"]


def count(number: int, noun: str) -> str:
    """Return a number with its noun: "1 run", "2 runs", "2 people"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {'people' if noun == 'person' else f'{noun}s'}"
