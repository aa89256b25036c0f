"""The house: imports run downwards only, and nothing heavy loads before it is needed."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "isheep"
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "accelerate", "lm_eval", "scipy"}

# Highest first. A module may import from its own floor and from those below it.
FLOORS = [
    {"cli", "cli_evaluation"},
    {"scores"},
    {"algorithm", "sweep", "evaluate", "examine", "summary", "compare", "export", "show", "status", "doctor", "talk"}
    | {"take", "contamination", "judge_health", "health_tables", "annotate", "annotation", "plan"},
    {"synthesize", "topics", "respond", "instances", "assess", "filters", "measure", "benchmarks", "doors"}
    | {"health", "collapse"}
    | {"lamb.pretrain", "lamb.probe"},
    {"engines.transformers", "engines.decode", "engines.attention", "engines.openai", "engines.server", "engines.vllm"}
    | {"engines.vllm_worker", "engines.tokens", "engines.ray", "engines.actors", "engines.fake", "trainers"},
    {"run", "novelty", "overlap", "chat", "checkpoint", "seeds", "lamb", "recipe_files"}
    | {"judges", "client", "endpoint"},
    {"conflicts", "recipe", "statistics", "agreement", "figures"},
    {"engines", "prompts", "records", "batching", "errors", "files", "rows", "stored", "progress", "sandbox", "walls"},
]
DOORS = (
    "engines.transformers",
    "engines.decode",
    "engines.attention",
    "trainers",
    "lamb",
    "checkpoint",
    "benchmarks",
    "plan.devices",
)  # may load torch


@cache
def modules() -> dict[str, ast.Module]:
    """The package's modules by name without "isheep.": engines.fake, run, ..."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return {name: tree for name, tree in found.items() if name != "__init__"}


def imported(tree: ast.AST) -> set[str]:
    """Every module that is imported anywhere in a file, names taken from a package included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, "imports are absolute"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor_of(name: str) -> int | None:
    """The floor of a module or of the package that it is in, None where `name` is no module of ours."""
    while name:
        for height, floor in enumerate(FLOORS):
            if name in floor:
                return height
        name = name.rpartition(".")[0]
    return None


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_run_downwards(name: str) -> None:
    here = floor_of(name)
    assert here is not None, f"isheep.{name} has no floor: give it one in FLOORS"
    known = modules()
    ours = {module.removeprefix("isheep.") for module in imported(known[name]) if module.startswith("isheep.")}
    upwards = {module for module in ours & set(known) if (floor := floor_of(module)) is not None and floor < here}
    assert not upwards


def test_only_the_doors_name_torch() -> None:
    for name, tree in modules().items():
        if not name.startswith(DOORS):
            heavy = {module.partition(".")[0] for module in imported(tree)} & (HEAVY - {"scipy"})
            assert not heavy, f"isheep.{name} imports {heavy}"


def test_importing_loads_nothing_heavy() -> None:
    """All that `isheep run` imports before it asks for a model."""
    names = "isheep, isheep.cli, isheep.algorithm, isheep.evaluate, isheep.summary, isheep.engines.transformers"
    script = f"import sys, {names}; print(*sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent, timeout=60
    )
    assert done.stdout.split() == []
