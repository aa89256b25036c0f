"""Items on what was run: environment, reproduction, number of runs, search budget, compute against score, scope."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from isheep.errors import shell_word
from isheep.plan.tables import clock, si
from isheep.recipe.loading import differences
from isheep.report.compute import ModelCompute, model_computes
from isheep.report.rigor.controls import COMPUTE_MATCHED, control_command, find_controls, format_controls
from isheep.report.rigor.evidence import Evidence, RigorAnswer, command_on, count, shorten
from isheep.report.run_data import RunData
from isheep.report.score_tables import ModelKey
from isheep.report.sections import versions, without_paths
from isheep.report.settings import FREE_KEYS, Setting
from isheep.rundir.iterations import model_words
from isheep.rundir.manifest import MANIFEST_FILE, read_manifest


def environment(evidence: Evidence) -> RigorAnswer:
    """Answer with the versions of packages, the device and the number of threads of each run."""
    by_text: dict[str, list[str]] = defaultdict(list)
    for run in evidence.runs:
        by_text[_environment_of(run)].append(evidence.name_of(run))
    missing = by_text.pop("", [])
    lines = [text if len(by_text) == 1 else f"{', '.join(names)}: {text}" for text, names in by_text.items()]
    if not lines:
        first = evidence.runs[0]
        return RigorAnswer(
            "not done", ["No versions are recorded."], command=f"isheep run --out {shell_word(first.path)}"
        )
    lines += [f"not recorded: {', '.join(missing)}"] if missing else []
    return RigorAnswer("partly" if missing else "answered", shorten(lines), 'run.jsonl ("started")')


def _environment_of(run: RunData) -> str:
    """Return the versions, device and threads that a run last worked with; "" if they are not recorded."""
    numbers = versions(run)
    if not numbers:
        return ""
    peaks = [event.get("peak_memory") or {} for event in run.events]
    device = "on a GPU" if any("cuda" in peak for peak in peaks) else "on the CPU" if any(peaks) else ""
    threads = run.recipe.machine.threads
    parts = [" ".join(entry) for entry in numbers.items()]
    starts = {repr(event["started"]) for event in run.events if event.get("started")}
    parts += [device] if device else []
    parts += [f"{threads} thread{'s' if threads > 1 else ''}"] if threads else []
    parts += [f"other versions in {len(starts) - 1} earlier starts"] if len(starts) > 1 else []
    return ", ".join(parts)


def reproduction(evidence: Evidence) -> RigorAnswer:
    """Answer with the command that makes a run again, what it needs from outside, and what has been repeated."""
    first = evidence.runs[0]
    records = [read_manifest(run.path) for run in evidence.runs]
    num_files = sum(map(len, records))
    recipe_file = first.path / "recipe.yaml"
    lines = [
        f"Each folder holds its whole recipe and its seed tasks: isheep run {shell_word(recipe_file)} --out NEW.",
        f"From outside: base model {', '.join(_models(evidence))}{_data_of(evidence)}.",
        *_repeated_runs(evidence),
    ]
    look = f"recipe.yaml, seeds.jsonl, {MANIFEST_FILE}; isheep verify DIR"
    if unrecorded := [evidence.name_of(run) for run, record in zip(evidence.runs, records, strict=True) if not record]:
        lines.append(f"The files of {', '.join(unrecorded)} have no digests.")
        return RigorAnswer("partly", lines, look, f"isheep run --out {shell_word(first.path)}")
    lines.append(f"{num_files} finished files have a recorded SHA-256 and the digests of what they were made from.")
    return RigorAnswer("answered", lines, look)


def _models(evidence: Evidence) -> list[str]:
    return list(dict.fromkeys(without_paths(run.recipe.model) for run in evidence.runs))


def _data_of(evidence: Evidence) -> str:
    """Return the files of benchmarks and seed tasks that the recipes name, as part of a sentence."""
    settings = [entry for run in evidence.runs for entry in run.recipe.evaluation]
    names = dict.fromkeys(f"{entry.label} data {Path(entry.data).name}" for entry in settings if entry.data)
    return "".join(f", {name}" for name in names)


def _repeated_runs(evidence: Evidence) -> Iterator[str]:
    """Yield a line for each recipe and seed that two runs have: how many files have the same bytes."""
    groups: dict[str, list[RunData]] = defaultdict(list)
    for run in evidence.runs:
        groups[repr(run.recipe.model_dump(mode="json", exclude=FREE_KEYS - {"seed"}))].append(run)
    for first, *repeated in (group for group in groups.values() if len(group) > 1):
        reference = read_manifest(first.path)
        for run in repeated:
            records = read_manifest(run.path)
            # The recipe holds the settings of the machine, which do not decide a result.
            names = (reference.keys() & records.keys()) - {"recipe.yaml"}
            equal = sum(reference[name].sha256 == records[name].sha256 for name in names)
            name, first_name = evidence.name_of(run), evidence.name_of(first)
            yield f"{name} repeats {first_name}: {equal} of {len(names)} files have the same bytes."


def num_runs(evidence: Evidence) -> RigorAnswer:
    """Answer with the number of runs, settings and seeds, and which runs are not finished."""
    counts = f"{count(len(evidence.runs), 'run')} of {count(len(evidence.settings), 'setting')}"
    lines = [f"{counts}; each is in the figures of this sheet."]
    lines += [f"{setting.name}: seed {', '.join(map(str, seeds_of(setting)))}" for setting in evidence.settings]
    unfinished = [run for run in evidence.runs if not run.is_finished]
    if unfinished:
        lines.insert(1, f"Not finished: {', '.join(map(evidence.name_of, unfinished))}.")
        command = f"isheep run --out {shell_word(unfinished[0].path)}"
        return RigorAnswer("partly", shorten(lines), "recipe.yaml of each run", command)
    return RigorAnswer("answered", shorten(lines), "recipe.yaml of each run")


def seeds_of(setting: Setting) -> list[int]:
    """Return the random seeds of a setting's runs."""
    return sorted(run.recipe.seed for run in setting.runs)


def search_budget(evidence: Evidence) -> RigorAnswer:
    """Answer with the keys of the recipe that differ between the settings, and how many settings there are."""
    first, *further = (setting.runs[0].recipe for setting in evidence.settings)
    rules = evidence.stop_benchmarks
    chosen = f"The iteration was chosen on validation items of {', '.join(rules)}." if rules else ""
    if not further:
        lines = ["One setting in these folders, so that nothing was chosen among them. Earlier trials are not in them."]
        return RigorAnswer("partly", [*lines, *([chosen] if chosen else [])], "recipe.yaml")
    keys: dict[str, list[str]] = defaultdict(list)
    for setting, recipe in zip(evidence.settings[1:], further, strict=True):
        for line in differences(first, recipe):
            if (key := line.partition(":")[0]).partition(".")[0] not in FREE_KEYS:
                keys[key].append(setting.name)
    lines = [f"{len(evidence.settings)} settings were run. Differing from {evidence.settings[0].name}:"]
    lines += shorten(f"{key}: {', '.join(names)}" for key, names in keys.items())
    lines.append("All other keys, the learning rate included, have one value." if not _varies(keys) else "")
    lines += [chosen, "Trials in other folders are not counted."]
    return RigorAnswer("answered", [line for line in lines if line], "recipe.yaml of each run; isheep report RUNS")


def _varies(keys: Mapping[str, Any]) -> bool:
    return "training.learning_rate" in keys


def compute_and_score(evidence: Evidence) -> RigorAnswer:
    """Answer with the cost of each model beside its score, and with the control of equal compute."""
    look = "isheep report RUNS (figure “Score against compute”); run.jsonl"
    lines = [line for index in range(len(evidence.settings)) if (line := _compute_line(evidence, index))]
    if not lines:
        path = evidence.runs[0].path
        return RigorAnswer("not done", ["No score with a cost."], command=command_on("eval", path))
    if controls := [control for control in find_controls(evidence) if control.kind == COMPUTE_MATCHED]:
        return RigorAnswer("answered", [*shorten(lines), *format_controls(controls)], look)
    lines = [*shorten(lines), "No control spends the same compute in one iteration."]
    return RigorAnswer("partly", lines, look, control_command(evidence.settings, [COMPUTE_MATCHED]))


def _compute_line(evidence: Evidence, index: int) -> str:
    """Return the first main score of each model of a setting, with the means over seeds of what the model cost."""
    if evidence.scores is None or not evidence.main_columns:
        return ""
    setting, column = evidence.settings[index], evidence.main_columns[0]
    by_run = [{cost.iteration: cost for cost in model_computes(run)} for run in setting.runs]
    parts = []
    for key, results in evidence.scores.all_results.items():
        if key.setting != index or column[0] not in results:
            continue
        # A base that all settings share has one row in the table.
        cell = evidence.scores.cells.get((key, column)) or evidence.scores.cells.get((ModelKey(0, 0), column))
        costs = [costs[key.iteration] for costs in by_run if key.iteration in costs]
        if cell and costs and (text := _cost_text(costs)):
            parts.append(f"{model_words(key.iteration)} {cell.text}{'%' if cell.is_share else ''}{text}")
    return f"{setting.name}, {' '.join(column)}: {'; '.join(parts)}" if len(parts) > 1 else ""


def _cost_text(costs: Sequence[ModelCompute]) -> str:
    """Return the mean costs of a model over seeds: " after 4.8 k tokens, 5 s, 1.2 T FLOPs (estimate)"."""
    if not costs[0].iteration:
        return " at no cost"
    tokens = [cost.tokens for cost in costs if cost.tokens is not None]
    seconds = [cost.seconds for cost in costs if cost.seconds is not None]
    flops = [cost.flops for cost in costs if cost.flops is not None]
    texts = [f"{si(fmean(tokens))} tokens"] if tokens else []
    texts += [clock(fmean(seconds))] if seconds else []
    texts += [f"{si(fmean(flops))} FLOPs (estimate)"] if flops else []
    return f" after {', '.join(texts)}" if texts else ""


def scope(evidence: Evidence) -> RigorAnswer:
    """Answer with what the runs are about; nothing else follows from them."""
    recipes = [run.recipe for run in evidence.runs]
    templates = dict.fromkeys(template for run in evidence.runs for b in run.benchmarks for template in b.templates)
    values_of: dict[str, Sequence[str]] = {
        "base model": _models(evidence),
        "chat template": [template for template in templates if template],
        "benchmark": list(dict.fromkeys(b.title for run in evidence.runs for b in run.benchmarks)),
        "language": list(dict.fromkeys(recipe.language for recipe in recipes)),
        "iterations": sorted({str(run.num_trained) for run in evidence.runs}),
        "generated tasks of an iteration": sorted({str(recipe.synthesis.tasks) for recipe in recipes}),
    }
    lines = [f"{name}: {', '.join(without_paths(value) for value in values)}" for name, values in values_of.items()]
    alone = "one base model" if len(_models(evidence)) == 1 else f"{len(_models(evidence))} base models"
    lines.append(
        f"The figures are about these alone: {alone}; no other model, size, language or benchmark, no preference "
        "training after it, and nothing on safety unless a benchmark above measures it."
    )
    return RigorAnswer("answered", lines, "recipe.yaml of each run")
