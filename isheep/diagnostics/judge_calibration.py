"""Judge calibration: measure how reliable the judge is whose ratings select the training data.

The loop trusts the scores that a model gives to its own answers (Section 3.2). Here they are compared with a second
rating by the same judge, another judge, another way to read a score, the answers' length, and the truth if it is known:
from a benchmark, from programs that check an answer, from people. The metrics are in iter-t/judge_calibration.json. New
ratings of a sample are rows in iter-t/judge_calibration/; the other files of the run are only read.
"""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from isheep import annotation
from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.batching import derive_seed
from isheep.benchmarks import load_benchmark, reported_benchmarks
from isheep.diagnostics import judge_metrics as metrics
from isheep.diagnostics.contamination import load_prompts
from isheep.diagnostics.judge_kinds import benchmarks_with_kinds, metrics_by_kind
from isheep.diagnostics.judge_metrics import Agreement, RankComparison, ScoreDistribution, TruthMetrics
from isheep.engines import Engine
from isheep.errors import UserError, shell_word
from isheep.evaluation.results import load_result
from isheep.evaluation.statistics import Estimate, estimate, win_rate
from isheep.models.chat_template import ChatTemplate
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.recipe.schema import NOT_SELF, Assessment, Recipe
from isheep.records import Answer, AssessedPair, Pair
from isheep.rundir.atomic import write_text
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir, model_of_iteration, model_words
from isheep.rundir.run import lock_run, open_run, saved_prompts
from isheep.stages.assess import grade_pairs
from isheep.stages.context import StageContext
from isheep.stages.rating_advice import are_constrained
from isheep.stages.rating_judge import open_other_judge

CALIBRATION_FILE = "judge_calibration.json"
RATINGS_FOLDER = "judge_calibration"
PROMPTS_FILE = "judge_calibration.prompts.yaml"


@dataclass(frozen=True)
class Repeatability:
    """How well a judge agrees with itself: by criterion, and on whether a pair passes the recipe's score filters.

    `method` says which ratings are compared. Without a score filter `same_decision` is None.
    """

    method: str
    criteria: dict[str, Agreement]
    same_decision: Estimate | None = None


@dataclass(frozen=True)
class IterationWinRate:
    """The share of tasks on which people prefer the iteration's answer to that of the model `against` (0: the base)."""

    against: int
    num_tasks: int
    win_rate: Estimate


@dataclass(frozen=True)
class JudgeCalibration:
    """The metrics of an iteration's judge.

    `comparisons` maps what the scores are compared with to a comparison by criterion, or to None if it is missing;
    `truth` maps the source of the truth to its metrics, `kinds` the label of a benchmark that knows the kinds of
    generated pairs to the metrics of each kind.
    """

    iteration: int
    judge: str
    sample_size: int
    scores: dict[str, ScoreDistribution]
    repeated: Repeatability
    comparisons: dict[str, dict[str, RankComparison] | None]
    truth: dict[str, TruthMetrics]
    kinds: dict[str, dict[str, TruthMetrics]]
    wins: list[IterationWinRate]
    num_unreadable_annotations: int

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file. An estimate is [value, low, high], or None if it is nan."""
        values: dict[str, Any] = _to_json(self)
        return values


class JudgedIteration(NamedTuple):
    """An iteration whose judge is measured: its rated pairs, D_raw^t with S^t, and the size of the sample."""

    recipe: Recipe
    settings: Assessment
    run: RunFolder
    iteration: int
    pairs: Sequence[AssessedPair]
    sample_size: int
    backend: Backend = DEFAULT_BACKEND

    @property
    def folder(self) -> RunFolder:
        return iteration_dir(self.run, self.iteration)

    @property
    def is_judged_by_current(self) -> bool:
        """Whether M^(t-1) is the judge, and not the base."""
        return self.settings.judge == "current"

    @property
    def other_reading(self) -> Literal["expected", "generate"]:
        """The way to read a score that the recipe does not use."""
        return "generate" if self.settings.read == "expected" else "expected"

    @property
    def sample(self) -> Sequence[AssessedPair]:
        """The pairs that are rated again; a larger sample contains a smaller one."""
        pairs = sorted(self.pairs, key=lambda pair: derive_seed(self.recipe.seed, "health", pair.id))
        return pairs[: self.sample_size]


class OpenJudge(NamedTuple):
    """A model that rates, behind its engine."""

    engine: Engine
    chat: ChatTemplate


class CheckedAnswers(NamedTuple):
    """Answers to a benchmark's prompts as pairs, and which of them a program found right."""

    pairs: list[Pair]
    right: list[bool]


def calibrate_judge(
    run_dir: Path, sample_size: int, iteration: int | None, *, backend: Backend = DEFAULT_BACKEND
) -> list[JudgeCalibration]:
    """Measure the judge of every iteration that has ratings, or of one iteration, and write judge_calibration.json.

    `sample_size` pairs, drawn by the run's seed, are rated again; these ratings are kept for the next call. Raises
    UserError if there are no ratings, or if another process writes the run.
    """
    recipe, run = open_run(run_dir)
    if not any(variant.assessment for variant in recipe.variants):
        raise UserError(f"{run_dir}: its recipe has no assessment, so there is no judge to measure")
    with_ratings = [
        index for index in range(1, recipe.iterations + 1) if iteration_dir(run, index).has("assessed.jsonl")
    ]
    selected = with_ratings if iteration is None else [index for index in with_ratings if index == iteration]
    if not selected:
        of_iteration = f" of iteration {iteration}" if iteration is not None else ""
        raise UserError(f"{run_dir} has no ratings{of_iteration} yet: see isheep status {shell_word(run_dir)}")
    # Before a model is opened: the engine or a benchmark may be code that is not allowed, or that can't be loaded.
    backend.check_code(recipe)
    for benchmark in recipe.evaluation:
        load_benchmark(benchmark.name)
    calibrations = []
    with lock_run(run_dir) as run:
        for index in selected:
            # An iteration may have a judge, criteria and filters of its own.
            recipe_now = recipe.at(index)
            assert recipe_now.assessment
            settings = _saved_settings(run_dir, recipe_now.assessment)
            pairs = iteration_dir(run, index).read("assessed.jsonl", AssessedPair)
            # An iteration whose ratings could not be read was rated in another way than the recipe says.
            reading = "constrained" if are_constrained(pairs) else settings.read
            own_settings = settings.model_copy(update={"read": reading})
            case = JudgedIteration(recipe_now, own_settings, run, index, pairs, min(sample_size, len(pairs)), backend)
            calibrations.append(measure_judge(case))
            text = json.dumps(calibrations[-1].to_json(), ensure_ascii=False, indent=1)
            case.folder.write_text(CALIBRATION_FILE, f"{text}\n")
    return calibrations


def measure_judge(case: JudgedIteration) -> JudgeCalibration:
    """Rate the sample again, and compare the run's ratings with everything that is known about its pairs."""
    checked = load_checked_answers(case)
    ratings = make_ratings(case, checked)
    by_people, num_unreadable = annotation.read_annotations(case.run.path / annotation.RATINGS, annotation.Rating)
    people = annotation.mean_ratings(by_people)
    grades = metrics.grades_by_criterion(case.pairs)
    return JudgeCalibration(
        iteration=case.iteration,
        judge=judge_name(case),
        sample_size=case.sample_size,
        scores={name: metrics.score_distribution([grade.score for grade in rows]) for name, rows in grades.items()},
        repeated=ratings.repeated,
        comparisons=compare_scores(case, ratings, people),
        truth=compare_with_truth(case, ratings, checked, people),
        kinds={
            label: metrics_by_kind(case.recipe, benchmark, case.pairs)
            for label, benchmark in benchmarks_with_kinds(case.recipe).items()
        },
        wins=win_rates(case),
        num_unreadable_annotations=num_unreadable,
    )


def judge_name(case: JudgedIteration) -> str:
    """Return the name of the iteration's judge in the results."""
    if not isinstance(case.settings.judge, str):
        return f"{case.settings.judge.model}, {NOT_SELF}"
    return model_words(case.iteration - 1 if case.is_judged_by_current else 0)


# --- new ratings


class NewRatings(NamedTuple):
    """What is rated for the calibration.

    The sample: a second time, read in the other way (expected or written score; None for a judge at an endpoint), and
    by the other judge (the base, or the current model; None in the first iteration if both are the base). And benchmark
    answers that a program has checked.
    """

    repeated: Repeatability
    read_otherwise: Sequence[AssessedPair] | None
    by_other_judge: Sequence[AssessedPair] | None
    checked: dict[str, Sequence[AssessedPair]]


def make_ratings(case: JudgedIteration, checked: Mapping[str, CheckedAnswers]) -> NewRatings:
    """Rate what is not rated yet, with each model loaded once."""
    chat = case.backend.load_chat_template(*case.recipe.chat_arguments)
    base, current = (model_of_iteration(case.recipe, case.run, index) for index in (0, case.iteration - 1))
    judge, other_judge = (current, base) if case.is_judged_by_current else (base, current)
    named_judge = case.settings.judge
    if isinstance(named_judge, str):
        own = OpenJudge(case.backend.open_engine(case.recipe, judge), chat)
    else:
        own, other_judge = OpenJudge(*open_other_judge(case.recipe, named_judge, case.folder, chat)), current
    with closing(own.engine):
        repeated = rate_twice(case, own)
        read_otherwise = None
        if not case.settings.is_at_endpoint:
            read_otherwise = rate(case, own, case.sample, case.other_reading, read=case.other_reading)
        by_benchmark = {name: rate(case, own, answers.pairs, name) for name, answers in checked.items()}
    by_other_judge = None
    if case.iteration > 1 or not isinstance(named_judge, str):
        with closing(case.backend.open_engine(case.recipe, other_judge)) as engine:
            by_other_judge = rate(case, OpenJudge(engine, chat), case.sample, "other-judge")
    return NewRatings(repeated, read_otherwise, by_other_judge, by_benchmark)


def rate(
    case: JudgedIteration, judge: OpenJudge, pairs: Sequence[Pair], name: str, **changes: Any
) -> Sequence[AssessedPair]:
    """Return pairs rated as the recipe says except for `changes`, with random seeds of their own.

    A constrained score is rated without its explanation, which follows it and does not change it.

    The file is judge_calibration/SIZE/NAME.jsonl.
    """
    settings = case.settings.model_copy(update={"explain": False, **changes})
    plain = [Pair.model_validate(pair.model_dump(exclude={"grades"})) for pair in pairs]
    seeded = case.recipe.model_copy(update={"seed": derive_seed(case.recipe.seed, "health", name)})
    output_dir = case.folder / RATINGS_FOLDER / str(case.sample_size)
    context = StageContext(seeded, judge.engine, judge.chat, case.run, case.iteration, output_dir=output_dir)
    return grade_pairs(context, settings, plain, f"{name}.jsonl", acts_on_unreadable=False)


def rate_twice(case: JudgedIteration, judge: OpenJudge) -> Repeatability:
    """Compare two ratings of the sample by the same judge.

    If ratings are sampled, these are the run's and new ones with another seed. Greedy ratings would only repeat
    themselves, so two are sampled at temperature 1. An expected score is not sampled at all.
    """
    if case.settings.read == "expected":
        return Repeatability("not measured: expected scores are not sampled, they would be the same", {})
    sampling, first = case.settings.sampling, case.sample
    if sampling.temperature:
        method = f"the run's ratings and new ones at its temperature, {sampling.temperature:g}"
    else:
        method = "two ratings at temperature 1, because the run's are greedy"
        sampling = sampling.model_copy(update={"temperature": 1.0})
        first = rate(case, judge, case.sample, "again-1", sampling=sampling)
    second = rate(case, judge, case.sample, "again-2", sampling=sampling)
    criteria = {name: metrics.agreement(*scores) for name, scores in metrics.common_scores(first, second).items()}
    passes = [metrics.passes_filters(case.recipe, pairs) for pairs in (first, second)]
    if passes[0] is None or passes[1] is None:
        return Repeatability(method, criteria)
    return Repeatability(method, criteria, estimate([a == b for a, b in zip(*passes, strict=True)]))


# --- comparisons


def compare_scores(
    case: JudgedIteration, ratings: NewRatings, people: metrics.HumanScores
) -> dict[str, dict[str, RankComparison] | None]:
    """Compare the run's scores with other scores of the same pairs, with the answers' length, and with people."""
    other_judge = "base judge" if case.is_judged_by_current else "current judge"
    other_reading = "expected score" if case.other_reading == "expected" else "written score"
    by_other_judge, read_otherwise = ratings.by_other_judge, ratings.read_otherwise
    return {
        other_judge: metrics.compare_ratings(by_other_judge, case.sample) if by_other_judge is not None else None,
        other_reading: metrics.compare_ratings(read_otherwise, case.sample) if read_otherwise is not None else None,
        "length": metrics.compare_with_length(case.pairs),
        "people": metrics.compare_with_people(case.pairs, people),
    }


def compare_with_truth(
    case: JudgedIteration, ratings: NewRatings, checked: Mapping[str, CheckedAnswers], people: metrics.HumanScores
) -> dict[str, TruthMetrics]:
    """Compare the scores with every source of the truth: benchmarks that know it, checked answers, people."""
    truth = {}
    for settings in case.recipe.evaluation:
        if is_right := load_benchmark(settings.name).is_right:
            right = [is_right(pair) for pair in case.pairs]
            truth[settings.label] = metrics.truth_metrics(case.recipe, case.pairs, right)
    for name, pairs in ratings.checked.items():
        truth[name] = metrics.truth_metrics(case.recipe, pairs, checked[name].right)
    if by_people := metrics.truth_by_people(case.recipe, case.pairs, people):
        truth["people"] = by_people
    return truth


def load_checked_answers(case: JudgedIteration) -> dict[str, CheckedAnswers]:
    """Return, by benchmark, the answers of M^(t-1) to a sample of its prompts, and which of them a program found right.

    These are benchmarks that kept their answers (eval/NAME/answers.jsonl, one for each prompt) and have a score with a
    truth value for each prompt; the first such score is used.
    """
    checked = {}
    for settings in reported_benchmarks(case.recipe):
        if answers := _checked_answers(case, settings):
            checked[settings.label] = answers
    return checked


def _checked_answers(case: JudgedIteration, settings: BenchmarkSettings) -> CheckedAnswers | None:
    iteration, name = case.iteration - 1, settings.label
    result, folder = load_result(case.run, iteration, name), iteration_dir(case.run, iteration) / "eval"
    if not result or not folder.has(f"{name}/answers.jsonl"):
        return None
    prompts = load_prompts(case.run, settings, [iteration])
    answers = folder.read(f"{name}/answers.jsonl", Answer)
    columns = [score.items for score in result.scores.values() if len(score.items) == len(prompts)]
    right = next((items for items in columns if all(isinstance(item, bool) for item in items)), None)
    if not right or len(answers) != len(prompts):
        return None
    order = sorted(range(len(prompts)), key=lambda index: derive_seed(case.recipe.seed, "health", index))
    indices = order[: case.sample_size]
    pairs = [_as_pair(f"{name}-{index}", prompts[index], answers[index]) for index in indices]
    return CheckedAnswers(pairs, [bool(right[index]) for index in indices])


def _as_pair(pair_id: str, prompt: str, answer: Answer) -> Pair:
    output, values = answer.output.strip(), answer.model_dump(include={"finish", "tokens"})
    return Pair(id=pair_id, instruction=prompt, output=output, seed=0, **values)


def win_rates(case: JudgedIteration) -> list[IterationWinRate]:
    """Return how often people prefer the iteration's answer to that of an earlier model."""
    choices, _ = annotation.read_annotations(case.run.path / annotation.CHOICES, annotation.Choice)
    return [
        IterationWinRate(earlier, len(points), win_rate(points))
        for (earlier, later), points in sorted(annotation.points_of_later(choices).items())
        if later == case.iteration
    ]


# --- helpers


def _saved_settings(run_dir: Path, settings: Assessment) -> Assessment:
    """Return the settings; rating prompts in a file of the user's own are used as they were when the run began."""
    text = saved_prompts(run_dir).get(settings.prompt) if isinstance(settings.prompt, str) else None
    if not text:
        return settings
    write_text(run_dir / PROMPTS_FILE, text)
    return settings.model_copy(update={"prompt": str(run_dir / PROMPTS_FILE)})


def _to_json(value: Any) -> Any:
    """Return records as dicts, numbers with four decimals, and estimates as [value, low, high] or None."""
    if isinstance(value, Estimate):
        return None if math.isnan(value.low) else _to_json([value.value, value.low, value.high])
    if is_dataclass(value):
        return {field.name: _to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _to_json(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_to_json(entry) for entry in value]
    return round(value, 4) if isinstance(value, float) else value
