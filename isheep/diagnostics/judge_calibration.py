"""The verb judge-health: is the judge that chooses the training data any good? iter-t/health.json, and new ratings.

The loop trusts the scores that a model gives to its own answers (Section 3.2). Here they are held against themselves,
another judge, another way to read them, the answers' length, and the truth where there is one: lamb's world, programs
that check an answer, people. What the run made is only read; new ratings of a sample are rows in iter-t/health/.
"""

import json
import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from isheep import annotation
from isheep.backends import open_engine
from isheep.batching import derive_seed
from isheep.benchmarks import load_benchmark
from isheep.diagnostics.contamination import prompts_of
from isheep.diagnostics.judge_metrics import (
    Found,
    Graded,
    against_truth,
    agreement,
    by_criterion,
    compared,
    distribution,
    of_people,
    passed,
    scores_of_both,
    with_length,
    with_people,
)
from isheep.engines import Engine
from isheep.errors import UserError
from isheep.evaluation.results import load_result
from isheep.evaluation.statistics import Estimate, estimate, win_rate
from isheep.models.chat_template import ChatTemplate, load_chat_template
from isheep.recipe.schema import Assessment, Recipe
from isheep.records import Answer, AssessedPair, Pair
from isheep.rundir.atomic import write_text
from isheep.rundir.folder import RunFolder, lock_run, open_run, saved_prompts
from isheep.rundir.iterations import iteration_dir, model_of_iteration
from isheep.stages.assess import grade_pairs
from isheep.stages.context import StageContext


class Case(NamedTuple):
    """An iteration's judge under examination."""

    recipe: Recipe
    settings: Assessment
    folder: RunFolder  # iter-t
    t: int
    graded: Graded  # D_raw^t with S^t
    size: int  # pairs that are rated anew


def calibrate_judge(path: Path, pairs: int, iteration: int | None) -> list[Found]:
    """iter-t/health.json of every iteration that has ratings, or of one, made anew.

    For it `pairs` are rated again, drawn by the run's seed; those ratings are kept. Raises UserError where there are no
    ratings to look at, and where another process writes the run.
    """
    recipe, run = open_run(path)
    there = [t for t in range(1, recipe.iterations + 1) if iteration_dir(run, t).has("assessed.jsonl")]
    wanted = there if iteration is None else [t for t in there if t == iteration]
    if recipe.assessment is None:
        raise UserError(f"{path}: its recipe has no assessment, so there is no judge to look at")
    if not wanted:
        at = f" of iteration {iteration}" if iteration is not None else ""
        raise UserError(f"{path} has no ratings{at} yet: see isheep status {path}")
    settings = recipe.assessment
    # Rating prompts in a file of the user's own are used as they were when the run began.
    if isinstance(settings.prompt, str) and (own := saved_prompts(path).get(settings.prompt)):
        write_text(path / "health.prompts.yaml", own)
        settings = settings.model_copy(update={"prompt": str(path / "health.prompts.yaml")})
    found = []
    with lock_run(path) as run:
        for t in wanted:
            graded = iteration_dir(run, t).read("assessed.jsonl", AssessedPair)
            case = Case(recipe, settings, iteration_dir(run, t), t, graded, min(pairs, len(graded)))
            found.append(examined(case, run))
            write_text(case.folder.path / "health.json", json.dumps(found[-1], ensure_ascii=False, indent=1) + "\n")
    return found


def examined(case: Case, run: RunFolder) -> Found:
    """What health.json holds. An estimate is [value, low, high], null where nothing can be said."""
    current = case.settings.judge == "current"
    judge, other = (model_of_iteration(case.recipe, run, t) for t in (case.t - 1, 0)[:: 1 if current else -1])
    chat, truths = load_chat_template(case.recipe.chat_template, case.recipe.model), known_truths(case, run)
    sample = drawn(case.graded, case.size, case.recipe.seed)
    people, lost = annotation.read_annotations(run.path / annotation.RATINGS, annotation.Rating)
    with closing(open_engine(case.recipe, judge)) as engine:
        repeated = again(case, engine, chat, sample)
        read = "expected" if case.settings.read == "generate" else "generate"
        otherwise = rated(case, engine, chat, sample, read, read=read)
        checked = {name: rated(case, engine, chat, some, name) for name, (some, _) in truths.items()}
    with closing(open_engine(case.recipe, other)) as engine:
        rival = rated(case, engine, chat, sample, "other-judge") if case.t > 1 else None
    by_people = annotation.mean_ratings(people)
    found = {
        "iteration": case.t,
        "judge": "base" if judge.adapter is None else f"M^{case.t - 1}",
        "sample": case.size,
        "scores": {name: distribution(grades) for name, grades in by_criterion(case.graded).items()},
        "again": repeated,
        "against": {
            ("base judge" if current else "current judge"): rival and compared(rival, sample),
            ("expected score" if read == "expected" else "written score"): compared(otherwise, sample),
            "length": with_length(case.graded),
            "people": with_people(case.graded, by_people),
        },
        "truth": {
            **by_benchmark(case),
            **{name: against_truth(case.recipe, rows, truths[name][1]) for name, rows in checked.items()},
            **of_people(case.recipe, case.graded, by_people),
        },
        "wins": wins(case.t, run),
        "annotations that can't be read": lost,
    }
    rounded: Found = _rounded(found)
    return rounded


# --- new ratings


def drawn(pairs: Graded, size: int, seed: int) -> Graded:
    """`size` of them; a larger sample holds a smaller one."""
    return sorted(pairs, key=lambda pair: derive_seed(seed, "health", pair.id))[:size]


def rated(case: Case, engine: Engine, chat: ChatTemplate, pairs: Sequence[Pair], name: str, **changes: Any) -> Graded:
    """Pairs rated by this engine as the recipe says but for `changes`, with noise of its own: health/SIZE/NAME."""
    settings = case.settings.model_copy(update=changes)
    plain = [Pair.model_validate(pair.model_dump(exclude={"grades"})) for pair in pairs]
    seeded = case.recipe.model_copy(update={"seed": derive_seed(case.recipe.seed, "health", name)})
    output_dir = case.folder / "health" / str(case.size)
    context = StageContext(seeded, engine, chat, case.folder, case.t, output_dir=output_dir)
    return grade_pairs(context, settings, plain, f"{name}.jsonl")


def again(case: Case, engine: Engine, chat: ChatTemplate, sample: Graded) -> Found:
    """The same pairs rated twice by the same judge.

    Where ratings are drawn: the run's, and others with another seed. Greedy ones would only repeat themselves, so two
    are drawn at temperature 1. An expected score is not drawn at all.
    """
    sampling = case.settings.sampling
    if case.settings.read == "expected":
        return {"how": "not asked: expected scores are not drawn, they would be the same"}
    if sampling.temperature:
        how, first = f"the run's ratings and others drawn at its temperature, {sampling.temperature:g}", sample
    else:
        sampling = sampling.model_copy(update={"temperature": 1.0})
        how = "two ratings drawn at temperature 1, since the run's are greedy"
        first = rated(case, engine, chat, sample, "again-1", sampling=sampling)
    second = rated(case, engine, chat, sample, "again-2", sampling=sampling)
    passes = [[passed(case.recipe, row.grades) for row in rows] for rows in (first, second)]
    decision = None if None in passes[0] else estimate([a == b for a, b in zip(*passes, strict=True)])
    criteria = {name: agreement(*some) for name, some in scores_of_both(first, second).items()}
    return {"how": how, "criteria": criteria, "the same decision": decision}


# --- the truth, where there is one


def by_benchmark(case: Case) -> Found:
    """What the benchmarks that know which pairs are right say of the run's own."""
    judges = {settings.label: load_benchmark(settings.name).is_right for settings in case.recipe.evaluation}
    return {
        name: against_truth(case.recipe, case.graded, [is_right(pair) for pair in case.graded])
        for name, is_right in judges.items()
        if is_right
    }


def known_truths(case: Case, run: RunFolder) -> dict[str, tuple[list[Pair], list[bool]]]:
    """By benchmark: M^(t-1)'s own answers to a sample of its prompts, and which of them a program found right.

    Of benchmarks that kept their answers (eval/NAME/answers.jsonl, one for each prompt) and have a score that is a
    truth value for each prompt; the first such score counts.
    """
    found: dict[str, tuple[list[Pair], list[bool]]] = {}
    for one in case.recipe.evaluation:
        folder = iteration_dir(run, case.t - 1) / "eval"
        result = load_result(run, case.t - 1, one.label)
        if not (result and folder.has(f"{one.label}/answers.jsonl")):
            continue
        asked = prompts_of(run, one, [case.t - 1])
        answers = folder.read(f"{one.label}/answers.jsonl", Answer)
        items = [score.items for score in result.scores.values()]
        right = next((row for row in items if len(row) == len(asked) and all(isinstance(x, bool) for x in row)), None)
        if right and len(answers) == len(asked):
            places = sorted(range(len(asked)), key=lambda n: derive_seed(case.recipe.seed, "health", n))[: case.size]
            pairs = [_pair(f"{one.label}-{n}", asked[n], answers[n]) for n in places]
            found[one.label] = (pairs, [bool(right[n]) for n in places])
    return found


def _pair(id: str, prompt: str, answer: Answer) -> Pair:
    fields = answer.model_dump(include={"finish", "tokens"})
    return Pair(id=id, instruction=prompt, output=answer.output.strip(), seed=0, **fields)


def wins(t: int, run: RunFolder) -> list[Found]:
    """How often people find iteration `t`'s answer better than an earlier model's (0: the base)."""
    choices, _ = annotation.read_annotations(run.path / annotation.CHOICES, annotation.Choice)
    by_pair = annotation.points_of_later(choices)
    return [
        {"against": earlier, "tasks": len(points), "win rate": win_rate(points)}
        for (earlier, later), points in sorted(by_pair.items())
        if later == t
    ]


def _rounded(value: Any) -> Any:
    """Return numbers with four decimals, and estimates as [value, low, high]; None for an estimate that is nan."""
    if isinstance(value, Estimate):
        return None if math.isnan(value.low) else _rounded(value[:3])
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value
