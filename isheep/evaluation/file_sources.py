"""What a file of a run is made from: the bytes of other files, and the values of the recipe's keys that it depends on.

Two files that are made from the same are equal, so that one run may copy the file of another.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isheep.benchmarks import reported_benchmarks, stop_settings
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.recipe.schema import Recipe
from isheep.rundir.artifacts import COMMON_KEYS, Artifact, artifact_of, iteration_name
from isheep.rundir.digests import file_sha256
from isheep.rundir.iterations import parse_run_file
from isheep.rundir.run import saved_prompts
from isheep.stages.judge_digests import saved_judges

# The files of a model's adapter that decide what the model generates.
MODEL_FILES = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")


def source_fingerprint(recipe: Recipe, run_dir: Path, file: str) -> str | None:
    """Return a hash of everything that a file of a run ("iter-1/pairs.jsonl") is made from.

    None if the file is not to be shared, or if one of its sources does not exist.
    """
    iteration, name = parse_run_file(file)
    artifact = artifact_of(name)
    if artifact is None or not artifact.shared:
        return None
    recipe = recipe.at(iteration)
    paths = [run_dir / "seeds.jsonl", *_source_files(artifact, recipe, run_dir, iteration)]
    if not all(path.exists() for path in paths):
        return None
    settings = _settings_of_file(artifact, recipe, name)
    prompts = saved_prompts(run_dir)
    settings["prompts"] = [prompts.get(name) for name in recipe.own_prompts(artifact.recipe_keys)]
    judges = saved_judges(run_dir)
    settings["judges"] = [judges.get(name) for name in _local_judges(settings)]
    digests = [file_sha256(path) for path in paths]
    return hashlib.sha256(json.dumps([file, settings, digests]).encode()).hexdigest()


def _source_files(artifact: Artifact, recipe: Recipe, run_dir: Path, iteration: int) -> list[Path]:
    """Return the files that an artifact is made from, those of the model that makes it included."""
    folder = run_dir / iteration_name(iteration)
    # The current model's adapter is among the model's files below.
    files = [folder / source for source in artifact.sources if source != "adapter"]
    if artifact.model == "current":
        model_iteration = iteration
    elif artifact.model == "start" and recipe.training.start == "base":
        model_iteration = 0
    else:
        model_iteration = iteration - 1
    if model_iteration > 0:
        files += [run_dir / iteration_name(model_iteration) / name for name in MODEL_FILES]
    return files


def _settings_of_file(artifact: Artifact, recipe: Recipe, name: str) -> dict[str, Any]:
    """Return the settings that the file `name` of an artifact depends on."""
    settings = recipe.model_dump(mode="json", include={*COMMON_KEYS, *artifact.recipe_keys})
    # No file depends on whether the run has a report, or on trackers, which only look on.
    del settings["machine"]["report"], settings["machine"]["track"]
    if artifact.name == "adapter":
        # These two choose the model and the rows to start from, whose files are among the sources.
        del settings["training"]["start"], settings["training"]["data"]
    elif artifact.name == "eval":
        benchmark = benchmark_of_file(recipe, name.removeprefix("eval/"))
        settings["evaluation"] = benchmark.model_dump(mode="json") if benchmark else None
    elif artifact.name == "validation":
        # The rule's numbers do not change a score.
        settings["stop"] = stop_settings(recipe).model_dump(mode="json") if recipe.stop_rule else None
    return settings


def _local_judges(settings: Mapping[str, Any]) -> list[str]:
    """Return the names of the judges on this machine that the settings of a file name."""
    sections = (settings.get(key) or {} for key in ("assessment", "evaluation", "stop"))
    judges = [section.get("judge") for section in sections]
    return [judge["model"] for judge in judges if isinstance(judge, dict) and judge["local"]]


def benchmark_of_file(recipe: Recipe, name: str) -> BenchmarkSettings | None:
    """Return the benchmark of `evaluation` that a file in eval/ belongs to: NAME.json, NAME, or a file in NAME/."""
    for benchmark in reported_benchmarks(recipe):
        if name in (benchmark.label, f"{benchmark.label}.json") or name.startswith(f"{benchmark.label}/"):
            return benchmark
    return None
