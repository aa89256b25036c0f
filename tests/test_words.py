"""The words of the code: names are nouns and verbs of the field, class names are unique, functions are short."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("isheep", "tests", "benchmarks")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LONGEST_FUNCTION = 60

# Pronouns and bare participles say nothing about the value that a variable holds.
BANNED_NAMES = frozenset(
    """
    one ones some found said place places known asked made shown told given owed other others it that this what which
    mine ours theirs same such many most each both thing things stuff
    """.split()  # noqa: SIM905
)


def assigned_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each name that a file assigns, binds in a loop or comprehension, or has as a parameter, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_variables_are_named_by_what_they_hold(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    banned = [f"line {line}: {name}" for name, line in assigned_names(tree) if name in BANNED_NAMES]
    assert not banned, "a variable is named by what it holds"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


def test_class_names_are_unique_in_the_package() -> None:
    counts: Counter[str] = Counter()
    for path in (ROOT / "isheep").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        counts.update(node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_test_file_imports_from_another_test_file() -> None:
    """Shared helpers live in tests/helpers."""
    for path in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not [module for module in modules if module.startswith(("tests.test_", "tests.conftest"))], path
