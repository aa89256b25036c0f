"""The structure of the package: folders import downwards only, and nothing heavy loads before it is needed."""

import ast
import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "isheep"
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "accelerate", "lm_eval", "scipy"}

# Folders and root modules, highest first. One may import from the others in its line and from the lines below.
FLOORS = (
    "cli",
    "api",
    "plan sweep export report trackers",
    "algorithm",
    "diagnostics annotation evaluation",
    "benchmarks stages",
    "backends lamb",
    "judges engines trainers",
    "rundir models openai_client",
    "recipe",
    "filters text sandbox seeds extensions",
    "prompts",
    "records batching files",
    "errors",
)
ENTRIES = ("__init__", "__main__")
MOST_ROOT_MODULES = 10
MOST_GROUPS = 32

# The folders that may name a heavy library in an import.
HEAVY_FOLDERS = ("engines", "trainers", "models", "lamb", "benchmarks", "plan.devices", "trackers")


@cache
def modules() -> dict[str, ast.Module]:
    """Return the package's modules by name, without the leading "isheep.": engines.function, batching, ..."""
    trees = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    # The package itself, and python -m isheep, which only calls the command line.
    for name in ENTRIES:
        trees.pop(name)
    return trees


def imported(tree: ast.AST) -> set[str]:
    """Return every module imported anywhere in a file, in functions too, and each name taken from a package."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, "imports are absolute"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def group_of(name: str) -> str:
    """Return the folder of a module, or the module itself where it stands at the root of the package."""
    return name.partition(".")[0]


@cache
def group_imports() -> dict[str, set[str]]:
    """Return, for each folder and root module, the other ones that it imports from."""
    graph: dict[str, set[str]] = {}
    for name, tree in modules().items():
        targets = {module.removeprefix("isheep.") for module in imported(tree) if module.startswith("isheep.")}
        inside = {group_of(module) for module in targets} & {group_of(module) for module in modules()}
        graph.setdefault(group_of(name), set()).update(inside - {group_of(name)})
    return graph


def floor_of(group: str) -> int:
    for height, floor in enumerate(FLOORS):
        if group in floor.split():
            return height
    raise AssertionError(f"isheep/{group} has no place in FLOORS: add it to a line")


@pytest.mark.parametrize("group", sorted({group_of(name) for name in modules()}))
def test_imports_run_downwards(group: str) -> None:
    upwards = {target for target in group_imports()[group] if floor_of(target) < floor_of(group)}
    assert not upwards


def test_folders_do_not_import_each_other_in_a_circle() -> None:
    remaining = {group: set(targets) for group, targets in group_imports().items()}
    while leaves := {group for group, targets in remaining.items() if not targets}:
        remaining = {group: targets - leaves for group, targets in remaining.items() if group not in leaves}
    assert not remaining, f"these folders import each other: {sorted(remaining)}"


def test_the_package_has_few_groups() -> None:
    root_modules = [path.name for path in PACKAGE.glob("*.py") if path.stem not in ENTRIES]
    assert len(root_modules) <= MOST_ROOT_MODULES, sorted(root_modules)
    assert len(group_imports()) <= MOST_GROUPS


def test_only_some_folders_import_heavy_libraries() -> None:
    for name, tree in modules().items():
        if not name.startswith(HEAVY_FOLDERS):
            heavy = {module.partition(".")[0] for module in imported(tree)} & (HEAVY - {"scipy"})
            assert not heavy, f"isheep.{name} imports {heavy}"


def test_stages_and_benchmarks_write_their_files_through_the_run_folder() -> None:
    """The run folder records a file before it gets its name, so that a run can go on after a kill at any moment."""
    for name, tree in modules().items():
        if group_of(name) in ("benchmarks", "stages", "evaluation") and name != "evaluation.judgment_files":
            assert "isheep.rundir.atomic" not in imported(tree), f"isheep.{name} writes a file without a record"


def test_importing_loads_nothing_heavy() -> None:
    """Covers all that `isheep run` imports before it asks for a model."""
    names = ["isheep", "isheep.cli", "isheep.algorithm", "isheep.evaluation.evaluate", "isheep.evaluation.tables"]
    names += ["isheep.engines.transformers"]
    script = f"import sys, {', '.join(names)}; print(*sorted({HEAVY} & set(sys.modules)))"
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent, timeout=60
    )
    assert process.stdout.split() == []


def test_the_names_that_tests_import_exist() -> None:
    """Test files that are skipped before their imports, such as those of vLLM, would not notice a name that moved."""
    imports = {
        (path.name, node.module, alias.name)
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("isheep")
        for alias in node.names
    }
    assert len(imports) > 500 and not sorted(entry for entry in imports if not exists(*entry[1:]))


def exists(module_name: str, name: str) -> bool:
    """Return whether a module has a name or a submodule of that name."""
    module = importlib.import_module(module_name)
    if hasattr(module, name):
        return True
    return hasattr(module, "__path__") and importlib.util.find_spec(f"{module_name}.{name}") is not None
