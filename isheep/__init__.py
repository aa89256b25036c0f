"""I-SHEEP (Liang et al. 2024): a base language model aligns itself from scratch.

The Python API; each name is loaded when it is first used, so that `import isheep` is fast. See docs/api.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isheep.api.alignment import Alignment as Alignment
    from isheep.api.alignment import align as align
    from isheep.api.comparison import BenchmarkComparison as BenchmarkComparison
    from isheep.api.comparison import compare as compare
    from isheep.api.models import RunModel as RunModel
    from isheep.api.models import evaluate as evaluate
    from isheep.api.recipes import load_recipe as load_recipe
    from isheep.api.recipes import load_sweep as load_sweep
    from isheep.api.runs import Iteration as Iteration
    from isheep.api.runs import Run as Run
    from isheep.api.runs import read_run as read_run
    from isheep.benchmarks import Benchmark as Benchmark
    from isheep.benchmarks import EvalContext as EvalContext
    from isheep.benchmarks import Result as Result
    from isheep.benchmarks import Score as Score
    from isheep.engines import Engine as Engine
    from isheep.engines.function import FunctionEngine as FunctionEngine
    from isheep.errors import UserError as UserError
    from isheep.recipe.schema import Recipe as Recipe
    from isheep.records import AssessedPair as AssessedPair
    from isheep.records import Completion as Completion
    from isheep.records import Drop as Drop
    from isheep.records import Grade as Grade
    from isheep.records import Pair as Pair
    from isheep.records import Rejected as Rejected
    from isheep.records import Sampling as Sampling
    from isheep.records import Task as Task

__version__ = "0.2.0"

_MODULES = {
    "Alignment": "isheep.api.alignment",
    "AssessedPair": "isheep.records",
    "Benchmark": "isheep.benchmarks",
    "Completion": "isheep.records",
    "Drop": "isheep.records",
    "Engine": "isheep.engines",
    "EvalContext": "isheep.benchmarks",
    "FunctionEngine": "isheep.engines.function",
    "Grade": "isheep.records",
    "Iteration": "isheep.api.runs",
    "BenchmarkComparison": "isheep.api.comparison",
    "Pair": "isheep.records",
    "Recipe": "isheep.recipe.schema",
    "Rejected": "isheep.records",
    "Result": "isheep.benchmarks",
    "Run": "isheep.api.runs",
    "RunModel": "isheep.api.models",
    "Sampling": "isheep.records",
    "Score": "isheep.benchmarks",
    "Task": "isheep.records",
    "UserError": "isheep.errors",
    "align": "isheep.api.alignment",
    "compare": "isheep.api.comparison",
    "evaluate": "isheep.api.models",
    "load_recipe": "isheep.api.recipes",
    "load_sweep": "isheep.api.recipes",
    "read_run": "isheep.api.runs",
}
"""The module that each public name is loaded from."""

__all__ = ["__version__", *_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Load a public name at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'isheep' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
