"""The runs of a sweep with random seeds: which there are, how each ended, and their scores over the seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import stdev
from typing import Literal, NamedTuple

from isheep.benchmarks import Result
from isheep.errors import UserError, unknown_name
from isheep.evaluation.compute import UNKNOWN_COST, ModelCost, mean_cost, model_costs
from isheep.evaluation.score_rows import load_results
from isheep.evaluation.statistics import Estimate, estimate, estimate_over_seeds, is_share
from isheep.evaluation.stopping import is_unfinished
from isheep.recipe.schema import Recipe
from isheep.recipe.sweeps import folder_of_setting, run_name
from isheep.rundir.events import read_events
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import find_run_result, newest_iteration
from isheep.rundir.lock import is_locked
from isheep.rundir.run import open_run
from isheep.rundir.seed_sweep import read_declared_runs

RunState = Literal["finished", "running", "unfinished", "failed", "damaged", "missing"]


@dataclass(frozen=True)
class SeedRun:
    """The run of a setting with a random seed. `reason` says more about a state that is not "finished".

    `opened` is None for a run that is missing or can't be read.
    """

    setting: str
    seed: int
    path: Path
    state: RunState
    reason: str = ""
    opened: tuple[Recipe, RunFolder] | None = None

    @property
    def name(self) -> str:
        return run_name(self.setting, self.seed)

    @cached_property
    def results(self) -> dict[int, dict[str, Result]]:
        """The results of each model by its iteration, 0 for the base, and by the title of the benchmark."""
        return load_results(*self.opened) if self.opened else {}

    @cached_property
    def costs(self) -> list[ModelCost]:
        """The costs of M^0, M^1, ... up to the newest model."""
        return model_costs(*self.opened) if self.opened else []

    def mean_score(self, iteration: int, benchmark: str, score: str) -> float | None:
        """Return the mean of a model's score; None if the model does not have it."""
        result = self.results.get(iteration, {}).get(benchmark)
        return result.scores[score].mean if result and score in result.scores else None

    def cost(self, iteration: int) -> ModelCost:
        return self.costs[iteration] if iteration < len(self.costs) else UNKNOWN_COST

    def has_model(self, iteration: int) -> bool:
        """Return whether a model is trained, or scored."""
        return bool(self.results.get(iteration)) or 0 < iteration < len(self.costs)

    def iteration_of(self, iteration: int | None) -> int | None:
        """Return an iteration, or for None that of the run's result: M^T, or the best by the recipe's stop rule.

        None if the run can't be read, or if it has a stop rule and has not ended.
        """
        if iteration is not None or self.opened is None:
            return iteration
        recipe, run = self.opened
        if recipe.stop_rule is None:
            return recipe.iterations
        return find_run_result(recipe, run).iteration if self.state == "finished" else None


@dataclass(frozen=True)
class SeedSweep:
    """A sweep with random seeds: a run for each setting with each seed, whether it is there or not."""

    path: Path
    settings: list[str]
    seeds: list[int]
    runs: list[SeedRun]

    def runs_of(self, setting: str) -> list[SeedRun]:
        """Return the runs of a setting in the order of their seeds. Raises UserError if there is no such setting."""
        if setting not in self.settings:
            raise UserError(f"{self.path}: {unknown_name('setting', setting, self.settings)}")
        return [run for run in self.runs if run.setting == setting]

    def num_iterations(self, setting: str) -> int:
        """Return the largest T of a setting's runs; 0 if none can be read."""
        return max((run.opened[0].iterations for run in self.runs_of(setting) if run.opened), default=0)


class SettingScore(NamedTuple):
    """A score of M^iteration of a setting over the seeds: the mean with Student's interval, and what a model cost.

    `by_seed` holds the score of each seed that has one, `deviation` is their standard deviation (None for one seed),
    `cost` the mean of their runs.
    """

    setting: str
    iteration: int
    benchmark: str
    score: str
    is_share: bool
    by_seed: dict[int, float]
    estimate: Estimate
    deviation: float | None
    cost: ModelCost


def is_seed_sweep(path: Path) -> bool:
    """Return whether a folder is that of a sweep with random seeds."""
    return path.is_dir() and read_declared_runs(path) is not None


def load_seed_sweep(path: Path) -> SeedSweep:
    """Open all runs of a sweep with random seeds. A run that can't be read is a run in the state "damaged".

    Raises UserError if the folder is not that of such a sweep.
    """
    declared = read_declared_runs(path) if path.is_dir() else None
    if declared is None:
        raise UserError(f"{path} is no sweep with random seeds: give a folder that isheep sweep --seeds has made")
    runs = [_open_seed_run(path, setting, seed) for setting in declared.settings for seed in declared.seeds]
    return SeedSweep(path, declared.settings, declared.seeds, runs)


def setting_scores(sweep: SeedSweep) -> list[SettingScore]:
    """Return every score of every model over the seeds that have it, in the order of settings, iterations and scores.

    Raises UserError if a result can't be read.
    """
    return [
        _setting_score(setting, iteration, benchmark, score, runs)
        for setting in sweep.settings
        for iteration in range(sweep.num_iterations(setting) + 1)
        for runs in [[run for run in sweep.runs_of(setting) if iteration in run.results]]
        for benchmark in dict.fromkeys(name for run in runs for name in run.results[iteration])
        for score in dict.fromkeys(
            name
            for run in runs
            if benchmark in run.results[iteration]
            for name in run.results[iteration][benchmark].scores
        )
    ]


def _setting_score(setting: str, iteration: int, benchmark: str, score: str, runs: Sequence[SeedRun]) -> SettingScore:
    results = {run.seed: run.results[iteration].get(benchmark) for run in runs}
    scores = {seed: result.scores[score] for seed, result in results.items() if result and score in result.scores}
    share = all(is_share(values.items, values.unit) for values in scores.values())
    by_seed = {seed: estimate(values.items, values.clusters, values.unit).value for seed, values in scores.items()}
    numbers = list(by_seed.values())
    return SettingScore(
        setting,
        iteration,
        benchmark,
        score,
        share,
        by_seed,
        estimate_over_seeds(numbers, share),
        stdev(numbers) if len(numbers) > 1 else None,
        mean_cost([run.cost(iteration) for run in runs if run.seed in by_seed]),
    )


def _open_seed_run(out: Path, setting: str, seed: int) -> SeedRun:
    path = folder_of_setting(out, run_name(setting, seed))
    if not (path / "recipe.yaml").is_file():
        return SeedRun(setting, seed, path, "missing", "it has not begun")
    try:
        recipe, run = open_run(path)
        state, reason = _state_of(recipe, run)
    except UserError as error:
        return SeedRun(setting, seed, path, "damaged", str(error))
    return SeedRun(setting, seed, path, state, reason, (recipe, run))


def _state_of(recipe: Recipe, run: RunFolder) -> tuple[RunState, str]:
    if not is_unfinished(recipe, run):
        return "finished", ""
    progress = f"{newest_iteration(recipe, run)} of {recipe.iterations} iterations are trained"
    if is_locked(run.path):
        return "running", progress
    failure = ""
    for event in read_events(run.root):
        # A failure is over when the run has started again.
        failure = "" if "started" in event else str(event.get("failed", failure))
    return ("failed", failure) if failure else ("unfinished", progress)
