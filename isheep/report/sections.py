"""The tables and sentences of a report besides headline, figures and examples: plain texts, which the page escapes."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from isheep.benchmarks import is_readable, load_benchmark
from isheep.diagnostics.diversity import METRICS
from isheep.diagnostics.judge_kinds import VERDICTS, benchmarks_with_kinds, metrics_by_kind, verdict
from isheep.diagnostics.judge_metrics import TruthMetrics, score_distribution, truth_metrics
from isheep.evaluation.answer_lengths import notable_length_change
from isheep.evaluation.formatting import escape_unprintable
from isheep.evaluation.newly_met import newly_met
from isheep.evaluation.statistics import Estimate
from isheep.filters.contamination import ContaminationFilter
from isheep.plan.reality import compare_with_plan
from isheep.plan.tables import clock, si
from isheep.recipe import loading
from isheep.report.run_data import MOST_ROWS_IN_MEMORY, IterationData, RunData
from isheep.rundir.findings import read_findings
from isheep.rundir.stage_times import stage_seconds

# An absolute path: a report is handed on, and says nothing about the machine.
ABSOLUTE_PATH = re.compile(r"(?<![\w./:~-])(?:~/|/)(?:[^\s/'\",;:]+/)*([^\s/'\",;:]+)")
INTERVAL = "95% intervals in brackets"


class PageTable(NamedTuple):
    """A table of the page: texts in rows. `note` says below it how to read it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def without_paths(text: str) -> str:
    """Return a text in which of each absolute path only the last name is left: /home/me/x.yaml -> …/x.yaml."""
    return ABSOLUTE_PATH.sub(lambda match: f"…/{match[1]}", text)


# --- judge


def judge_tables(run: RunData) -> Iterator[PageTable]:
    """Yield what is known about the ratings: their distribution, truth, agreement with themselves and with others."""
    rated = [iteration for iteration in run.iterations if iteration.assessed]
    if not rated:
        return
    yield _distribution_table(rated)
    columns: Sequence[str]
    if rows := [row for iteration in rated for row in truth_rows(iteration)]:
        columns = ("iteration", "truth", "pairs", "right", "AUROC", "pass", "right of those", "right that pass")
        note = (
            "AUROC: the probability that a right pair has a higher mean rating than a wrong one; 0.5 is chance, 1 is "
            f"perfect. Pass: the thresholds of the recipe. {INTERVAL}."
        )
        yield PageTable("Do high ratings mean right answers?", columns, rows, note)
    yield from kind_tables(rated[-1])
    calibrated = [iteration for iteration in rated if iteration.calibration]
    if rows := [row for iteration in calibrated for row in _repeated_rows(iteration)]:
        columns = ("iteration", "criterion", "pairs", "equal", "at most 1 apart", "concordance")
        method = (calibrated[-1].calibration or {}).get("repeated", {}).get("method", "")
        yield PageTable("The same pairs rated again", columns, rows, f"{method}. {INTERVAL}.")
    if rows := [row for iteration in calibrated for row in _comparison_rows(iteration)]:
        columns = ("iteration", "compared with", "criterion", "pairs", "rank correlation", "higher by")
        note = "Higher by: the run's ratings minus the others. Length: the number of the answer's tokens."
        yield PageTable("Ratings compared with", columns, rows, f"{note} {INTERVAL}.")


def _distribution_table(rated: Sequence[IterationData]) -> PageTable:
    rows: list[Sequence[str]] = []
    for iteration in rated:
        for criterion in iteration.criteria:
            scores = score_distribution([pair.grades[criterion].score for pair in iteration.assessed])
            unreadable = _share([scores.unreadable.value, scores.unreadable.low, scores.unreadable.high])
            moments = (_number(scores.mean), _number(scores.standard_deviation))
            rows.append((str(iteration.number), criterion, str(scores.num_rated), unreadable, *moments))
    columns = ("iteration", "criterion", "rated", "unreadable", "mean", "standard deviation")
    return PageTable("Ratings", columns, rows, "The figure “Ratings of the generated pairs” has their histograms.")


def truth_rows(iteration: IterationData) -> Iterator[Sequence[str]]:
    """Yield a row for each source of the truth: checks of the recipe's benchmarks, and those of the calibration."""
    calibrated = (iteration.calibration or {}).get("truth", {})
    for name, values in calibrated.items():
        yield _truth_row(iteration.number, name, values)
    for settings in iteration.recipe.evaluation:
        # Results of code that is not allowed can be read, but the code is not loaded for them.
        is_right = load_benchmark(settings.name).is_right if is_readable(settings.name) else None
        if is_right and settings.label not in calibrated:
            pairs = iteration.assessed[:: -(-len(iteration.assessed) // MOST_ROWS_IN_MEMORY)]
            metrics = truth_metrics(iteration.recipe, pairs, [is_right(pair) for pair in pairs])
            yield _truth_row(iteration.number, settings.label, _as_values(metrics))


def _as_values(metrics: TruthMetrics) -> dict[str, Any]:
    """Return metrics in the form of judge_calibration.json: an estimate is [value, low, high], or None."""

    def values(result: Estimate | None) -> list[float] | None:
        return None if result is None or math.isnan(result.low) else [result.value, result.low, result.high]

    fields = {name: values(getattr(metrics, name)) for name in ("right", "auroc", "precision", "recall")}
    return {"num_pairs": metrics.num_pairs, "num_passing": metrics.num_passing, **fields}


def _truth_row(iteration: int, name: str, values: Mapping[str, Any]) -> Sequence[str]:
    kept = values.get("num_passing")
    shares = (_share(values.get("precision")), _share(values.get("recall")))
    numbers = (str(values["num_pairs"]), _share(values["right"]), _coefficient(values["auroc"]))
    return (str(iteration), name, *numbers, "–" if kept is None else str(kept), *shares)


def kind_tables(iteration: IterationData) -> Iterator[PageTable]:
    """Yield how well ratings tell right from wrong pairs of each kind, if a benchmark knows the kinds."""
    for label, benchmark in benchmarks_with_kinds(iteration.recipe).items():
        by_kind = metrics_by_kind(iteration.recipe, benchmark, iteration.assessed)
        rows = [
            (kind, *_truth_row(iteration.number, "", _as_values(metrics))[2:], verdict(metrics))
            for kind, metrics in by_kind.items()
        ]
        columns = ("kind", "pairs", "right", "AUROC", "pass", "right of those", "right that pass", "judge")
        title = f"The same by kind of task ({label}, iteration {iteration.number})"
        note = f"A pair counts for each of its kinds. {VERDICTS} {INTERVAL}."
        yield PageTable(title, columns, rows, note)


def _repeated_rows(iteration: IterationData) -> Iterator[Sequence[str]]:
    repeated = (iteration.calibration or {}).get("repeated", {})
    for criterion, values in repeated.get("criteria", {}).items():
        shares = (_share(values["equal"]), _share(values["within_1"]), _coefficient(values["concordance"]))
        yield (str(iteration.number), criterion, str(values["num_pairs"]), *shares)


def _comparison_rows(iteration: IterationData) -> Iterator[Sequence[str]]:
    for name, by_criterion in (iteration.calibration or {}).get("comparisons", {}).items():
        for criterion, values in (by_criterion or {}).items():
            numbers = (_coefficient(values["rank_correlation"]), _coefficient(values.get("difference")))
            yield (str(iteration.number), name, criterion, str(values["num_pairs"]), *numbers)


def _share(values: Sequence[float] | None) -> str:
    if not values:
        return "–"
    value, low, high = (100 * number for number in values[:3])
    return f"{value:.1f}% [{low:.0f}, {high:.0f}]"


def _coefficient(values: Sequence[float] | None) -> str:
    return f"{values[0]:.2f} [{values[1]:.2f}, {values[2]:.2f}]" if values else "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


# --- diversity, contamination


def diversity_warnings(run: RunData) -> list[str]:
    """Return a line for each metric that became narrower."""
    measured = [(iteration.number, iteration.diversity or {}) for iteration in run.iterations]
    return [f"Iteration {number}: {line}" for number, metrics in measured for line in metrics.get("narrower", ())]


def diversity_table(run: RunData) -> PageTable | None:
    """Return all metrics of diversity, an iteration in each column."""
    measured = {iteration.number: iteration.diversity for iteration in run.iterations if iteration.diversity}
    if not measured:
        return None
    rows: list[Sequence[str]] = []
    for name, metric in METRICS.items():
        values = [metrics.get(name) for metrics in measured.values()]
        texts = ["–" if value is None else metric.number_format.format(value) for value in values]
        rows.append((f"{metric.text}: {metric.label}", *texts))
    words = [
        ", ".join(f"{escape_unprintable(word)} {share:.0%}" for word, share in list(firsts.items())[:5])
        for firsts in (metrics.get("first_words", {}) for metrics in measured.values())
    ]
    rows.append(("instructions: most frequent first words", *words))
    columns = ("metric", *(f"iteration {number}" for number in measured))
    return PageTable("All metrics", columns, rows, "docs/diagnostics.md describes each metric.")


def contamination_table(run: RunData) -> PageTable | None:
    """Return how many pairs the contamination filter dropped, by iteration; None if the recipe has no such filter."""
    rows: list[Sequence[str]] = []
    for iteration in run.iterations:
        if iteration.is_filtered and any(isinstance(rule, ContaminationFilter) for rule in iteration.recipe.filters):
            num_dropped = sum(drop.by == "contamination" for drop in iteration.drops.values())
            rows.append((str(iteration.number), str(len(iteration.pairs)), str(num_dropped)))
    if not rows:
        return None
    columns = ("iteration", "generated pairs", "dropped as overlapping with a benchmark")
    return PageTable("", columns, rows)


# --- counts, plan, rigor, environment


def counts_table(run: RunData) -> PageTable | None:
    """Return the number of rows that each iteration generated, kept and learned from."""
    rows: list[Sequence[str]] = []
    for iteration in run.iterations:
        trained = ((iteration.training or {}).get("rows") or {}).get("trained")
        num_pairs, num_kept = len(iteration.pairs), len(iteration.kept)
        kept = f"{num_kept} ({num_kept / num_pairs:.0%})" if iteration.is_filtered and num_pairs else "–"
        texts = (str(num_pairs) if num_pairs else "–", kept, "–" if trained is None else str(trained))
        rows.append((str(iteration.number), str(len(iteration.rejected)), *texts))
    columns = ("iteration", "rejected candidates", "generated pairs", "kept by the filters", "training rows")
    return PageTable("Rows", columns, rows) if rows else None


def plan_table(run: RunData) -> PageTable | None:
    """Return the plan of the run beside what happened, if the run recorded a plan."""
    compared = compare_with_plan(run.recipe, run.folder, stage_seconds(run.folder).seconds)
    rows = [
        (
            row.label,
            *map(_count, (row.rows, row.planned_rows, row.tokens, row.planned_tokens or None)),
            clock(row.seconds),
            clock(row.planned_seconds),
        )
        for row in compared
    ]
    columns = ("stage", "rows", "planned", "tokens", "planned", "time", "planned")
    note = "Planned: what isheep plan would have said before the run, on the same machine and without measuring it."
    return PageTable("", columns, rows, note) if rows else None


def _count(value: float | None) -> str:
    if value is None:
        return "–"
    return si(value) if value >= 1000 else f"{value:.0f}"


def rigor_facts(run: RunData) -> Iterator[str]:
    """Yield sentences on what the figures of this report can bear, and what was not done."""
    yield from finding_texts(run)
    if run.num_trained:
        yield from (f"{measured}." for measured in newly_met(run.recipe, run.folder, run.num_trained))
        names = [benchmark.benchmark for benchmark in run.benchmarks]
        changes = (notable_length_change(run.folder, run.num_trained, name) for name in names)
        yield from (f"{change}." for change in changes if change)
    yield f"This is one run with one random seed ({run.recipe.seed}). How much another seed would change is not known."
    yield (
        "Intervals are 95% intervals over the items of a benchmark; differences are paired, item by item. They are not "
        "corrected for the number of scores: of 20 true non-differences, one looks like a difference."
    )
    yield from selection_threats(run)
    yield from rating_threats(run)
    if not any(isinstance(rule, ContaminationFilter) for rule in run.recipe.filters):
        yield "Overlap of the generated data with benchmarks was not looked for: isheep contamination does."
    yield from benchmark_notes(run)


def finding_texts(run: RunData) -> Iterator[str]:
    """Yield the signs of degenerate learning that a run has noted."""
    yield from (without_paths(escape_unprintable(text)) for text in read_findings(run.folder).values())


def selection_threats(run: RunData) -> Iterator[str]:
    """Yield how the result was chosen, if there was a choice."""
    if rule := run.recipe.stop_rule:
        yield (
            f"The result of the run is {run.result}. It was chosen on items of {rule.benchmark} that are not reported."
        )
    elif run.num_trained > 1:
        yield (
            "The best iteration was chosen by the same scores that are reported, which flatters it. A stop rule in the "
            "recipe would choose it by other items."
        )


def rating_threats(run: RunData) -> Iterator[str]:
    """Yield who rated the pairs, and whether the judge was calibrated."""
    if note := run.recipe.judge_note:
        yield f"{without_paths(note)}."
    elif any(iteration.assessed for iteration in run.iterations):
        yield "The model rated its own answers (self-assessment)."
    if not any(iteration.calibration for iteration in run.iterations) and run.recipe.assessment:
        yield "The judge was not calibrated: isheep judge-calibration rates a sample again and compares."


def benchmark_notes(run: RunData) -> Iterator[str]:
    """Yield what a reader of the scores must know."""
    for benchmark in run.benchmarks:
        yield from (f"{benchmark.title}: {note}" for note in benchmark.notes)


def run_notes(run: RunData) -> list[str]:
    """Return the notes of the run's events, each once."""
    texts = [event["note"] for event in run.events if isinstance(event.get("note"), str)]
    return [without_paths(escape_unprintable(text)) for text in dict.fromkeys(texts)]


def versions(run: RunData) -> dict[str, str]:
    """Return the versions of Python and of the packages that the run last began or continued with."""
    started = [event["started"] for event in run.events if isinstance(event.get("started"), dict)]
    return {str(name): str(version) for name, version in started[-1].items()} if started else {}


def recipe_text(run: RunData) -> str:
    """Return the recipe as YAML, without the paths of the machine."""
    return loading.dump_settings(_portable(loading.load_saved_settings(run.path / "recipe.yaml")))


def _portable(value: Any) -> Any:
    if isinstance(value, str):
        return without_paths(value) if value.startswith(("/", "~")) else value
    if isinstance(value, dict):
        return {key: _portable(entry) for key, entry in value.items()}
    return [_portable(entry) for entry in value] if isinstance(value, list) else value
