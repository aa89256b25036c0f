"""Items on leakage: benchmarks in the pretraining, overlap of generated data with items, how it is looked for."""

from collections.abc import Iterator, Sequence

from isheep.benchmarks.support.measures import load_measures
from isheep.diagnostics.contamination import format_interval
from isheep.filters.contamination import ContaminationFilter
from isheep.report.rigor.evidence import Evidence, RigorAnswer, command_on, count, shorten
from isheep.report.rigor.overlaps import RunOverlap
from isheep.report.sections import without_paths

LAMB = "lamb"


def pretraining(evidence: Evidence) -> RigorAnswer:
    """Answer with what is known about the benchmarks in the texts that the base was trained on."""
    lines, is_known = [], True
    models = list(dict.fromkeys(without_paths(run.recipe.model) for run in evidence.runs))
    for name in benchmark_names_of(evidence):
        text = load_measures(name)
        if text is None:
            lines.append(f"{name}: isheep has no text on when its items became public.")
        elif text.published is None and models == [LAMB]:
            lines.append(
                f"{name}: no item is in the base's corpus, which is generated (docs/lamb.md, “Its test suite”)."
            )
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
    """Answer with the number of generated pairs that overlap with a prompt, and the scores without those prompts."""
    measured = evidence.overlaps
    if not measured:
        return _no_benchmark(evidence)
    known = [item for item in measured if not item.problem]
    problems = list(dict.fromkeys(f"{item.benchmark}: {item.problem}" for item in measured if item.problem))
    command = command_on("contamination", measured[0].run.path)
    if not known:
        return RigorAnswer("not done", shorten(problems), command=command)
    lines = [
        line
        for name in dict.fromkeys(item.benchmark for item in known)
        for line in _overlap_lines(evidence, name, known)
    ]
    look = "isheep contamination DIR --rows"
    if problems:
        return RigorAnswer("partly", shorten([*lines, *problems]), look, command)
    return RigorAnswer("answered", shorten(lines), look)


def _overlap_lines(evidence: Evidence, benchmark: str, measured: Sequence[RunOverlap]) -> Iterator[str]:
    items = [item for item in measured if item.benchmark == benchmark]
    pairs, touched, kept = (
        sum(getattr(item, name) for item in items) for name in ("num_pairs", "num_touched", "num_kept")
    )
    prompts = max(item.num_touched_prompts for item in items)
    generated = f"{pairs} generated pairs in {count(len(items), 'run')}"
    yield (
        f"{benchmark}: of {generated}, {touched} overlap with a prompt, and {kept} of these were kept for training. "
        f"At most {prompts} of {items[0].num_prompts} prompts are touched in a run."
    )
    for item in items:
        for split in item.splits[:1]:
            clean = format_interval(split.clean.model, split).replace("\\", "")
            yield f"{evidence.name_of(item.run)}: {split.name} is {clean} on its {split.clean.num_items} clean items"


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
    stops = evidence.stop_benchmarks
    lines += [f"The stop rule reads validation items of {name}, which are not reported." for name in stops]
    look = "recipe.yaml (filters), iter-*/dropped.jsonl"
    if not without:
        return RigorAnswer("answered", shorten(lines), look)
    command = command_on("contamination", next(s for s in evidence.settings if s.name == without[0]).runs[0].path)
    lines.append(f"No filter in {', '.join(without)}: overlap is looked for after the fact (item “overlap”).")
    is_measured = any(not item.problem for item in evidence.overlaps)
    return RigorAnswer("partly" if is_measured else "not done", shorten(lines), look, "" if is_measured else command)


def _no_benchmark(evidence: Evidence) -> RigorAnswer:
    path = evidence.runs[0].path
    return RigorAnswer("not done", ["No model is scored on a benchmark."], command=command_on("eval", path))
