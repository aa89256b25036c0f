"""Scores and comparisons as plain dicts, for the --json option. nan becomes None; shares are from 0 to 1."""

import math
from collections.abc import Sequence
from typing import Any

from isheep.benchmarks import Result
from isheep.evaluation.compare import ModelComparison, ScoreComparison
from isheep.evaluation.contrasts import ContrastFamily, ContrastScore
from isheep.evaluation.counts import count_rows, pair_accuracy
from isheep.evaluation.power import ALPHA
from isheep.evaluation.score_rows import ModelScore, evaluated_benchmarks, load_scores, started_iterations
from isheep.evaluation.seed_runs import SeedSweep, setting_scores
from isheep.evaluation.statistics import Comparison, Estimate, estimate, is_share
from isheep.recipe.schema import Recipe
from isheep.rundir.folder import RunFolder


def scores_json(recipe: Recipe, run: RunFolder, only: Sequence[str] = ()) -> dict[str, Any]:
    """Return the rows and scores of a run: {"run", "model", "iterations": [...], "benchmarks": {...}}.

    `only` limits the benchmarks. A benchmark maps each score to a list with an entry for every model that has it.
    """
    iterations = started_iterations(recipe, run)
    names = list(only) or evaluated_benchmarks(recipe, run, iterations)
    return {
        "run": str(run.path),
        "model": recipe.model,
        **({"judge_note": recipe.judge_note} if recipe.judge_note else {}),
        "iterations": [_iteration_json(recipe, run, iteration) for iteration in iterations if iteration],
        "benchmarks": {name: _benchmark_json(run, iterations, name) for name in names},
    }


def result_json(result: Result) -> dict[str, Any]:
    """Return one result by itself: its scores, breakdowns and notes."""
    return {
        "template": result.template,
        "scores": {
            name: _estimate_json(estimate(score.items, score.clusters, score.unit), is_share(score.items, score.unit))
            for name, score in result.scores.items()
        },
        "breakdowns": {title: dict(counts) for title, counts in result.breakdowns.items()},
        "notes": list(result.notes),
    }


def comparison_json(comparison: ModelComparison) -> dict[str, Any]:
    """Return a comparison: {"a", "b", "seeds", "p_over", "num_tests", "scores": [...], "left_out": [...]}.

    "seeds" is None for two single runs. "left_out" names the scores that have other numbers of items on the two sides.
    "p_over" is "items" or "seeds". "num_tests" is the number of different tests that "p_holm" and the minimum
    detectable differences are corrected for.
    """
    first, second = comparison.sides
    pairs = zip(comparison.scores, comparison.corrected_p, strict=True)
    return {
        "a": first.label,
        "b": second.label,
        "seeds": None if comparison.seeds == [None] else comparison.seeds,
        "p_over": comparison.unit,
        "num_tests": comparison.num_tests,
        "scores": [_score_json(score, corrected, comparison.alpha) for score, corrected in pairs],
        "left_out": [
            {"benchmark": left.benchmark, "score": left.score, "a": left.num_items[0], "b": left.num_items[1]}
            for left in comparison.left_out
        ],
    }


def sweep_json(sweep: SeedSweep) -> dict[str, Any]:
    """Return a sweep with random seeds: {"folder", "seeds", "settings": [...], "states": {...}}.

    "settings" has every score of every model over the seeds, with the mean costs of its runs; "states" has every run.
    """
    return {
        "folder": str(sweep.path),
        "seeds": sweep.seeds,
        "settings": [
            {
                "setting": score.setting,
                "iteration": score.iteration,
                "benchmark": score.benchmark,
                "score": score.score,
                **_over_seeds(_estimate_json(score.estimate, score.is_share)),
                "standard_deviation": score.deviation,
                "by_seed": {str(seed): _number(value) for seed, value in score.by_seed.items()},
                "cost": score.cost._asdict(),
            }
            for score in setting_scores(sweep)
        ],
        "states": {run.name: {"state": run.state, "reason": run.reason} for run in sweep.runs},
    }


def contrasts_json(family: ContrastFamily) -> dict[str, Any]:
    """Return contrasts over random seeds: {"p_over", "num_tests", "contrasts", "scores": [...], "left_out": [...]}.

    Each score has the two sides and their difference over the seeds, the comparison over items of each seed, and the
    mean costs of the two models.
    """
    pairs = zip(family.scores, family.corrected_p, strict=True)
    return {
        "p_over": "seeds",
        "num_tests": family.num_tests,
        "contrasts": list(map(str, family.contrasts)),
        "scores": [_contrast_json(score, corrected, family.alpha) for score, corrected in pairs],
        "left_out": family.left_out,
    }


def _contrast_json(score: ContrastScore, corrected_p: float, alpha: float) -> dict[str, Any]:
    result = score.over_seeds
    values: dict[str, Any] = {
        "contrast": str(score.contrast),
        "benchmark": score.benchmark,
        "score": score.score,
        "seeds": score.seeds,
        "b_minus_a": {**_over_seeds(_difference_json(result, alpha)), "p_holm": _number(corrected_p)},
    }
    for side, estimated, by_seed, cost in zip(
        "ab", (result.before, result.after), score.scores, score.costs, strict=True
    ):
        values[side] = {
            **_over_seeds(_estimate_json(estimated, score.is_share)),
            "by_seed": by_seed,
            "cost": cost._asdict(),
        }
    values["over_items"] = [
        {"seed": seed, **_difference_json(items, ALPHA)}
        for seed, items in zip(score.seeds, score.over_items, strict=True)
    ]
    return values


def _over_seeds(values: dict[str, Any]) -> dict[str, Any]:
    """Return an estimate or a difference whose observations are seeds, which its number is named by."""
    return {("num_seeds" if key == "num_items" else key): value for key, value in values.items()}


def _iteration_json(recipe: Recipe, run: RunFolder, iteration: int) -> dict[str, Any]:
    values: dict[str, Any] = {"iteration": iteration, **count_rows(run, iteration)._asdict()}
    if accuracy := pair_accuracy(recipe, run, iteration):
        values["accuracy_generated"] = _estimate_json(estimate(accuracy.generated), share=True)
        values["accuracy_kept"] = _estimate_json(estimate(accuracy.kept), share=True)
    return values


def _benchmark_json(run: RunFolder, iterations: Sequence[int], name: str) -> dict[str, Any]:
    scores = load_scores(run, iterations, name)
    return {
        "part": next((result.part for result in scores.results if result), ""),
        "templates": {str(index): text for index, text in zip(iterations, scores.templates, strict=True) if text},
        "headline": [row.name for row in scores.headline],
        "scores": {row.name: [_model_json(model) for model in row.models if model] for row in scores.rows},
        "notes": scores.notes,
    }


def _model_json(model: ModelScore) -> dict[str, Any]:
    values = {"iteration": model.iteration, **_estimate_json(model.estimate, model.is_share)}
    values["num_unreadable"] = model.num_unreadable
    if model.change:
        values["change"] = _difference_json(model.change, ALPHA)
    return values


def _score_json(score: ScoreComparison, corrected_p: float, alpha: float) -> dict[str, Any]:
    return {
        "benchmark": score.benchmark,
        "score": score.score,
        "templates": list(score.templates),
        "a": _estimate_json(score.result.before, score.is_share),
        "b": _estimate_json(score.result.after, score.is_share),
        "b_minus_a": {**_difference_json(score.result, alpha), "p_holm": _number(corrected_p)},
    }


def _estimate_json(result: Estimate, share: bool) -> dict[str, Any]:
    values = {"value": _number(result.value), "low": _number(result.low), "high": _number(result.high)}
    return {**values, "num_items": result.num_items, "kind": "share" if share else "mean"}


def _difference_json(result: Comparison, alpha: float) -> dict[str, Any]:
    return {
        "difference": _number(result.difference),
        "low": _number(result.low),
        "high": _number(result.high),
        "p": _number(result.p),
        "test": result.test,
        "minimum_detectable_difference": _number(result.precision.detectable_at(alpha)),
        "num_items": result.num_items,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
