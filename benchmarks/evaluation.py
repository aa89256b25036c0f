"""Measure where an evaluation spends its time: lamb's suite on four models, and the statistics of 541 prompts.

    OMP_NUM_THREADS=1 python -m benchmarks.evaluation [KEY=VALUE ...]

The four models are lamb's base and three new LoRA adapters, which do not change its output: they cost as much as
trained ones. The 541 prompts have as many random verdicts as IFEval's, for two models. Seconds are CPU seconds of this
process; the first use of libraries has a row of its own. KEY=VALUE changes the recipe.
"""

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, RenderableType
from rich.table import Table

from benchmarks.common import TimedEngine, add_cpu_seconds, make_parser, run_script
from isheep import api
from isheep.backends import Backend, open_engine
from isheep.engines import Engine
from isheep.evaluation import tables
from isheep.evaluation.compare import compare_models, comparison_table
from isheep.evaluation.evaluate import evaluate
from isheep.evaluation.formatting import format_score
from isheep.evaluation.statistics import Clusters, Value, compare, holm
from isheep.models.checkpoint import find_checkpoint
from isheep.recipe.schema import Recipe
from isheep.records import Model
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import open_run_for_writing

MODELS = 4
# The sizes of IFEval.
PROMPTS, INSTRUCTIONS = 541, 834
LIBRARIES = "first use of libraries"

Spent = dict[str, float]
"""CPU seconds by what they were spent on."""


def make_adapters(recipe: Recipe, run: RunFolder) -> list[Model]:
    """Write an adapter for each iteration; return the base and the iterations' models."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(find_checkpoint(recipe.model))
    model = get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    paths = [run.path / f"iter-{t}" / "adapter" for t in range(1, MODELS)]
    for path in paths:
        model.save_pretrained(str(path))
    return [Model(recipe.model), *(Model(recipe.model, path) for path in paths)]


def time_suite(folder: Path, settings: Sequence[str]) -> Spent:
    """Evaluate the models on lamb's suite as `isheep eval` does, and render its tables."""
    spent = Spent()

    def open_timed(recipe: Recipe, model: Model) -> Engine:
        engine = open_engine(recipe, model)
        with add_cpu_seconds(spent, "loading"):
            engine.logprobs(["a"], ["a"])
        return TimedEngine(engine, spent)

    recipe = api.load_recipe("lamb", list(settings))
    with open_run_for_writing(folder, recipe) as run:
        with add_cpu_seconds(spent, LIBRARIES):
            models = make_adapters(recipe, run)
        for t, model in enumerate(models):
            with add_cpu_seconds(spent, "whole"):
                evaluate(recipe, run, t, model, backend=Backend(open_engine=open_timed))
        with add_cpu_seconds(spent, LIBRARIES):
            compute_statistics([True, False], [False, False], None)
        with add_cpu_seconds(spent, "tables"):
            render(tables.run_table(recipe, run, full=True))
            render(comparison_table(compare_models(folder, None, [])))
    return spent


def render(*parts: RenderableType) -> str:
    """Return the text that a terminal of 80 columns shows."""
    with (console := Console(width=80)).capture() as text:
        console.print(*parts)
    return text.get()


def compute_statistics(before: Sequence[Value], after: Sequence[Value], clusters: Clusters) -> None:
    """Compute both intervals, the paired test with its interval and detectable difference, and Holm for four tests."""
    for values in (before, after):
        format_score(values, clusters)
    holm([compare(before, after, clusters).p] * 4)


class Family(NamedTuple):
    """A score to compare: its name, its number of items, their clusters, and a function that draws a value."""

    name: str
    num_items: int
    clusters: Clusters
    draw: Callable[[], Value]


def time_statistics() -> Spent:
    """Time the statistics of IFEval's four accuracies, and of as many ratings as it has prompts."""
    spent, rng = Spent(), random.Random(0)
    prompt_indices = sorted([*range(PROMPTS), *rng.choices(range(PROMPTS), k=INSTRUCTIONS - PROMPTS)])

    def verdict() -> bool:
        return rng.random() < 0.5

    families = [
        *(Family(f"{PROMPTS} prompts {way}", PROMPTS, None, verdict) for way in ("strict", "loose")),
        *(
            Family(f"{INSTRUCTIONS} instructions {way}", INSTRUCTIONS, prompt_indices, verdict)
            for way in ("strict", "loose")
        ),
        Family(f"{PROMPTS} ratings (bootstrap, sign flips)", PROMPTS, None, lambda: rng.uniform(1, 10)),
    ]
    for name, num_items, clusters, draw in families:
        before, after = ([draw() for _ in range(num_items)] for _ in range(2))
        with add_cpu_seconds(spent, name):
            compute_statistics(before, after, clusters)
    return spent


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of CPU seconds."""
    parser = make_parser(__doc__)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="Change the recipe lamb.")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        suite = time_suite(Path(folder) / "run", args.settings)
    statistics = time_statistics()
    rest = suite["whole"] - suite["loading"] - suite["generate"]
    total = suite["whole"] + suite["tables"]
    table = Table("what", "CPU seconds", "share")
    for name, seconds in (
        ("weights", suite["loading"]), ("generation", suite["generate"]), ("scores and files", rest),
        ("intervals, tests, tables", suite["tables"]),
    ):  # fmt: skip
        table.add_row(f"lamb's suite, {MODELS} models: {name}", f"{seconds:.2f}", f"{seconds / total:.0%}")
    table.add_section()
    for name, seconds in statistics.items():
        table.add_row(f"statistics of {name}", f"{seconds:.3f}", "")
    accuracies = sum(seconds for name, seconds in statistics.items() if "ratings" not in name)
    table.add_row("IFEval's four accuracies together", f"{accuracies:.3f}", "")
    table.add_section()
    table.add_row(f"{LIBRARIES}, not counted above", f"{suite[LIBRARIES]:.2f}", "")
    Console(width=80).print(table)


if __name__ == "__main__":
    run_script(main)
