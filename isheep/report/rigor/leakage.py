"""Items on leakage: benchmarks in the base's pretraining, overlap of generated data with items, how it is looked for."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from isheep.benchmarks import is_readable, load_benchmark, reported_settings
from isheep.benchmarks.support.measures import load_measures
from isheep.diagnostics.contamination import (
    SplitScore,
    choose_rule,
    format_interval,
    load_overlap,
    load_prompts,
    split_scores,
    touched_prompts,
)
from isheep.errors import UserError, one_line
from isheep.filters.contamination import ContaminationFilter
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.report.rigor.evidence import Evidence, RigorAnswer, command_on, shorten
from isheep.report.run_data import RunData
from isheep.report.sections import without_paths

LAMB = "lamb"


class RunOverlap(NamedTuple):
    """The overlap of a run's generated pairs with the prompts of a benchmark.

    `splits` are the scores of the newest model on the items that no pair overlaps with ("clean") and on the others.
    `problem` says why the overlap is not known.
    """

    run: RunData
    benchmark: str
    num_prompts: int = 0
    num_pairs: int = 0
    num_touched: int = 0
    num_kept: int = 0
    num_touched_prompts: int = 0
    splits: Sequence[SplitScore] = ()
    problem: str = ""


def pretraining(evidence: Evidence) -> RigorAnswer:
    """Answer with what is known about the benchmarks in the texts that the base was trained on."""
    lines, is_known = [], True
    models = list(dict.fromkeys(without_paths(run.recipe.model) for run in evidence.runs))
    for name in benchmark_names_of(evidence):
        text = load_measures(name)
        if text is None:
            lines.append(f"{name}: isheep has no text on when its items became public.")
        elif text.published is None and models == [LAMB]:
            lines.append(f"{name}: no item is in the base's corpus, which is generated (docs/lamb.md, “Its test suite”).")
            continue
        elif text.published is not None:
            lines.append(f"{name}: public since {text.published}; a base with later texts may have read its items.")
        is_known = False
    if not lines:
        return _no_benchmark(evidence)
    if not is_known:
        listed = ", ".join(models)
        lines.append(f"The run folders do not say until when the texts of {listed} were collected: state it.")
        lines.append("A gain over the base on the same items is not made by what the base had read already, alone.")
    return RigorAnswer("answered" if is_known else "partly", shorten(lines), "isheep/benchmarks/measures.yaml")


def benchmark_names_of(evidence: Evidence) -> list[str]:
    """Return the names of the benchmarks that a model is scored on."""
    return list(dict.fromkeys(scores.benchmark for run in evidence.runs for scores in run.benchmarks))


def overlap(evidence: Evidence) -> RigorAnswer:
    """Answer with the number of generated pairs that overlap with a benchmark's prompts, and the scores without them."""
    measured = [item for run in evidence.runs for item in measure_overlaps(run)]
    if not measured:
        return _no_benchmark(evidence)
    known = [item for item in measured if not item.problem]
    problems = list(dict.fromkeys(f"{item.benchmark}: {item.problem}" for item in measured if item.problem))
    command = command_on("contamination", measured[0].run.path)
    if not known:
        return RigorAnswer("not done", shorten(problems), command=command)
    lines = [line for name in dict.fromkeys(item.benchmark for item in known) for line in _overlap_lines(name, known)]
    look = "isheep contamination DIR --rows"
    if problems:
        return RigorAnswer("partly", shorten([*lines, *problems]), look, command)
    return RigorAnswer("answered", shorten(lines), look)


def _overlap_lines(benchmark: str, measured: Sequence[RunOverlap]) -> Iterator[str]:
    items = [item for item in measured if item.benchmark == benchmark]
    pairs, touched, kept = (sum(getattr(item, name) for item in items) for name in ("num_pairs", "num_touched", "num_kept"))
    prompts = max(item.num_touched_prompts for item in items)
    runs = "1 run" if len(items) == 1 else f"{len(items)} runs"
    yield (
        f"{benchmark}: of {pairs} generated pairs in {runs}, {touched} overlap with a prompt, and {kept} of these were "
        f"kept for training. At most {prompts} of {items[0].num_prompts} prompts are touched in a run."
    )
    for item in items:
        for split in item.splits[:1]:
            clean = format_interval(split.clean.model, split).replace("\\", "")
            yield f"{item.run.name}: {split.name} is {clean} on its {split.clean.num_items} clean items"


def measure_overlaps(run: RunData) -> Iterator[RunOverlap]:
    """Yield the overlap of a run's pairs with each benchmark of its recipe, as `isheep contamination` counts it."""
    numbers = [iteration.number for iteration in run.iterations if iteration.folder.has("pairs.jsonl")]
    rule = choose_rule(run.recipe, None, None)
    for entry in run.recipe.evaluation if numbers else ():
        settings = reported_settings(run.recipe.stop_rule, entry)
        if problem := _why_unread(settings):
            yield RunOverlap(run, settings.label, problem=problem)
            continue
        try:
            prompts = load_prompts(run.folder, settings, [0, *numbers])
        # Data or a package are missing here, or the data have changed since the model was scored: the answer says so.
        except UserError as error:
            yield RunOverlap(run, settings.label, problem=without_paths(one_line(str(error))))
            continue
        overlaps = {number: load_overlap(run.folder, number, prompts, rule) for number in numbers}
        kept = [
            sum(item.pairs[row].id in item.kept_ids for row in item.overlap.rows)
            for item in overlaps.values()
            if item.kept_ids is not None
        ]
        touched = touched_prompts(run.recipe, numbers[-1], overlaps)
        yield RunOverlap(
            run,
            settings.label,
            num_prompts=len(prompts),
            num_pairs=sum(len(item.pairs) for item in overlaps.values()),
            num_touched=sum(len(item.overlap.rows) for item in overlaps.values()),
            num_kept=sum(kept),
            num_touched_prompts=len(set().union(*(item.overlap.prompts for item in overlaps.values()))),
            splits=list(split_scores(run.folder, settings, numbers[-1], touched, len(prompts))),
        )


def _why_unread(settings: BenchmarkSettings) -> str:
    """Return why the prompts of a benchmark are not read here: nothing is downloaded, and no code loaded."""
    if not is_readable(settings.name):
        return "your own code, which is read with --allow-code alone"
    if settings.data and not Path(settings.data).exists():
        return "its data are elsewhere: give them as --data"
    if not settings.data and load_benchmark(settings.name).items_from == "hub":
        return "its items are on the Hub, from where this sheet loads nothing"
    return ""


def leakage_detection(evidence: Evidence) -> RigorAnswer:
    """Answer with how overlap is looked for in each setting, and how many pairs were dropped for it."""
    lines, without = [], []
    for setting in evidence.settings:
        rules = [rule for rule in setting.runs[0].recipe.filters if isinstance(rule, ContaminationFilter)]
        if not rules:
            without.append(setting.name)
            continue
        methods = ["exact prompts", *([f"{rules[0].ngram} common words"] if rules[0].ngram else [])]
        methods += [f"ROUGE-L above {rules[0].rouge}"] if rules[0].rouge else []
        drops = [
            drop.by == "contamination" for run in setting.runs for it in run.iterations for drop in it.drops.values()
        ]
        lines.append(f"{setting.name}: filter by {', '.join(methods)}; it dropped {sum(drops)} pairs.")
    rules = {run.recipe.stop_rule.benchmark for run in evidence.runs if run.recipe.stop_rule}
    lines += [f"The stop rule reads validation items of {name}, which are not reported." for name in sorted(rules)]
    look = "recipe.yaml (filters), iter-*/dropped.jsonl"
    if not without:
        return RigorAnswer("answered", shorten(lines), look)
    command = command_on("contamination", next(s for s in evidence.settings if s.name == without[0]).runs[0].path)
    lines.append(f"No filter in {', '.join(without)}: overlap is looked for after the fact (item “overlap”).")
    is_measured = any(not item.problem for run in evidence.runs for item in measure_overlaps(run))
    return RigorAnswer("partly" if is_measured else "not done", shorten(lines), look, "" if is_measured else command)


def _no_benchmark(evidence: Evidence) -> RigorAnswer:
    path = evidence.runs[0].path
    return RigorAnswer("not done", ["No model is scored on a benchmark."], command=command_on("eval", path))
