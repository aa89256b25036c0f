"""Controls: settings that differ from another one in what an alternative explanation of a gain needs."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from isheep.evaluation.formatting import format_change, format_change_interval, format_p_value
from isheep.filters.random_choice import RandomFilter
from isheep.filters.score import ScoreFilter
from isheep.recipe.schema import Recipe
from isheep.report.rigor.evidence import Evidence, RigorAnswer, Verdict, run_command, shorten
from isheep.report.run_data import RunData
from isheep.report.score_tables import ModelKey, ScoreTable
from isheep.report.settings import FREE_KEYS, Setting
from isheep.rundir.iterations import model_words


class ControlKind(NamedTuple):
    """A kind of control: which explanation it is about, and the keys of the recipe in which it differs."""

    name: str
    explanation: str
    keys: tuple[str, ...]
    is_control: Callable[[Recipe, Recipe], bool]
    """Returns whether the first recipe is this control of the second one, if they differ in `keys` alone."""
    overrides: Callable[[RunData], list[str]]
    """Returns the settings of the command line that make a run the control; none if its files do not say which."""


class Control(NamedTuple):
    """A control and the setting that it belongs to, with their scores in one table."""

    kind: ControlKind
    setting: Setting
    control: Setting
    scores: ScoreTable


def _draws(recipe: Recipe) -> bool:
    return any(isinstance(rule, RandomFilter) for rule in recipe.filters)


def _random_keep(run: RunData) -> list[str]:
    rules = [rule for rule in run.recipe.filters if isinstance(rule, ScoreFilter)]
    if len(rules) != 1:
        return []
    replaced = {"kind": "random", "as_many_as": rules[0].model_dump(mode="json", exclude_none=True, exclude={"kind"})}
    filters = [replaced if rule is rules[0] else rule.model_dump(mode="json") for rule in run.recipe.filters]
    return [f"filters={json.dumps(filters)}"]


def _training_numbers(run: RunData, *keys: str) -> list[int]:
    """Return the numbers of a run's trainings at these keys of training.json."""
    numbers = []
    for iteration in run.iterations:
        value: Any = iteration.training or {}
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        numbers += [value] if isinstance(value, int) and value > 0 else []
    return numbers


def _size_matched(run: RunData) -> list[str]:
    number = min(_training_numbers(run, "rows", "sampled"), default=0)
    return [f"training.num_rows={number}"] if number > 1 else []


def _step_matched(run: RunData) -> list[str]:
    number = min(_training_numbers(run, "steps"), default=0)
    return [f"training.max_steps={number}"] if number else []


def _compute_matched(run: RunData) -> list[str]:
    """Return the settings of one iteration with as many tasks and training rows as all iterations together."""
    recipe, num_rows = run.recipe, sum(_training_numbers(run, "rows", "sampled"))
    if recipe.iterations < 2 or num_rows < 2:
        return []
    overrides = ["iterations=1", f"synthesis.tasks={recipe.iterations * recipe.synthesis.tasks}"]
    if recipe.synthesis.budget:
        overrides.append(f"synthesis.budget={recipe.iterations * recipe.synthesis.budget}")
    return [*overrides, f"training.max_rows={num_rows}"]


KINDS = (
    ControlKind(
        "random-keep",
        "fewer pairs, whichever they are, do the same",
        ("filters",),
        lambda control, recipe: _draws(control) and not _draws(recipe),
        _random_keep,
    ),
    ControlKind(
        "size-matched",
        "an iteration is better because it trains on more rows",
        ("training.num_rows", "training.max_rows"),
        lambda control, recipe: control.training.num_rows is not None and recipe.training.num_rows is None,
        _size_matched,
    ),
    ControlKind(
        "step-matched",
        "an iteration is better because it makes more optimizer steps",
        ("training.max_steps",),
        lambda control, recipe: control.training.max_steps is not None and recipe.training.max_steps is None,
        _step_matched,
    ),
    ControlKind(
        "compute-matched",
        "one iteration with the same compute does the same",
        ("iterations", "synthesis.tasks", "synthesis.budget", "training.max_rows"),
        lambda control, recipe: (
            control.iterations == 1 < recipe.iterations and control.synthesis.tasks > recipe.synthesis.tasks
        ),
        _compute_matched,
    ),
)


COMPUTE_MATCHED = KINDS[-1]


def find_controls(evidence: Evidence) -> Iterator[Control]:
    """Yield the controls among the settings, each with a setting that differs from it in the control's keys alone."""
    if evidence.scores is None:
        return
    for kind in KINDS:
        for control in evidence.settings:
            recipe = control.runs[0].recipe
            partners = (
                setting
                for setting in evidence.settings
                if kind.is_control(recipe, setting.runs[0].recipe)
                and _without(recipe, kind.keys) == _without(setting.runs[0].recipe, kind.keys)
            )
            for partner in partners:
                pair = [partner, control]
                if all(any(run.benchmarks for run in setting.runs) for setting in pair):
                    yield Control(kind, partner, control, ScoreTable(pair, against=control.name))


def _without(recipe: Recipe, keys: Sequence[str]) -> dict[str, Any]:
    """Return the values of a recipe without those of some keys and those that do not make another setting."""
    values = recipe.model_dump(mode="json", exclude=FREE_KEYS)
    for key in keys:
        section, _, name = key.partition(".")
        if name:
            values[section].pop(name)
        else:
            values.pop(section)
    return values


def format_controls(controls: Sequence[Control]) -> Iterator[str]:
    """Yield how the last model of a setting differs from its control in the main score of each benchmark."""
    for control in controls:
        scores = control.scores
        iteration = max((key.iteration for key in scores.results if key.setting == 0), default=0)
        by_benchmark: dict[str, str] = {}
        for column in scores.columns:
            cell = scores.cells.get((ModelKey(0, iteration), column))
            if column[0] in by_benchmark or cell is None or cell.comparison is None:
                continue
            result, share = cell.comparison, cell.is_share
            change = format_change(result.difference, share)
            interval = format_change_interval(result.low, result.high, share) or "no interval"
            p = format_p_value(scores.corrected[cell.values])
            name = f"{model_words(iteration)}, {' '.join(column)}"
            by_benchmark[column[0]] = f"{name} {change} {interval}, p {p} by {result.test}"
        if not by_benchmark:
            yield f"{control.setting.name} minus {control.control.name} ({control.kind.name}): no score in common"
        for text in by_benchmark.values():
            tests = "1 test" if scores.num_tests == 1 else f"{scores.num_tests} tests"
            yield f"{control.setting.name} minus {control.control.name} ({control.kind.name}): {text} (Holm, {tests})"


def alternative_explanations(evidence: Evidence) -> RigorAnswer:
    """Answer with the controls that are among the runs and what the setting gains over each of them."""
    controls = [control for control in find_controls(evidence) if control.kind != COMPUTE_MATCHED]
    present = {control.kind.name for control in controls}
    missing = [kind for kind in KINDS[:-1] if kind.name not in present]
    lines = shorten(format_controls(controls), "isheep report RUNS --against SETTING")
    lines += [f"Not excluded: {kind.explanation} (control {kind.name})." for kind in missing]
    look = "isheep report RUNS --against SETTING" if controls else ""
    verdict: Verdict = "not done" if not controls else "partly" if missing else "answered"
    names = {control.control.name for control in controls}
    settings = [setting for setting in evidence.settings if setting.name not in names]
    return RigorAnswer(verdict, lines, look, control_command(settings, missing))


def control_command(settings: Sequence[Setting], kinds: Sequence[ControlKind]) -> str:
    """Return the command that makes the first of these controls of the first setting that can have one."""
    for kind in kinds:
        for setting in settings:
            if overrides := kind.overrides(setting.runs[0]):
                return run_command(setting.runs[0], *overrides, name=kind.name)
    return ""
