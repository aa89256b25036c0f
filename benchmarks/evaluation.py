"""What does an evaluation spend its time on? lamb on its suite, four models; and the statistics of 541 prompts.

    OMP_NUM_THREADS=1 python -m benchmarks.evaluation

The four models are lamb's base and three LoRA adapters as training begins them, which change nothing: what they cost is
what trained ones cost. The 541 prompts have as many verdicts as IFEval's, drawn, of two models. CPU seconds of this
process; the first use of a library is a row by itself.
"""

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from isheep import api
from isheep.backends import open_engine
from isheep.benchmarks.support.options import ready
from isheep.evaluation import evaluate, tables
from isheep.evaluation.compare import compare_models, comparison_table
from isheep.evaluation.formatting import format_score
from isheep.evaluation.statistics import compare, holm
from isheep.models.checkpoint import find_checkpoint
from isheep.recipe import loading
from isheep.recipe.schema import Recipe
from isheep.records import Model
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import open_run_for_writing

MODELS = 4
PROMPTS, INSTRUCTIONS = 541, 834  # IFEval's
spent: dict[str, float] = {}


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Adds what passes to `spent`."""
    start = time.process_time()
    yield
    spent[name] = spent.get(name, 0.0) + time.process_time() - start


class Timed:
    """An engine whose loading and generation are timed."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.loaded = engine, False

    def generate(self, *arguments: Any) -> Any:
        if not self.loaded:
            with timed("loading"):
                ready(self.engine)
            self.loaded = True
        with timed("generation"):
            return self.engine.generate(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


def adapters(recipe: Recipe, run: RunFolder) -> list[Model]:
    """The base and an adapter for each iteration."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(find_checkpoint(recipe.model))
    model = get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    paths = [run.path / f"iter-{t}" / "adapter" for t in range(1, MODELS)]
    for path in paths:
        model.save_pretrained(path)
    return [Model(recipe.model), *(Model(recipe.model, path) for path in paths)]


def suite(folder: Path) -> None:
    """lamb's suite as `isheep eval` runs it, and the table as it prints it."""
    recipe = api.load_recipe(loading.find_recipe("lamb"), [])
    with open_run_for_writing(folder, recipe) as run:
        with timed("first use of libraries"):
            models = adapters(recipe, run)
        evaluate.open_engine = lambda recipe, model: Timed(open_engine(recipe, model))
        for t, model in enumerate(models):
            with timed("whole"):
                evaluate.evaluate(recipe, run, t, model)
        with timed("first use of libraries"):
            statistics([True, False], [False, False], None)
        with timed("tables"):
            printed(tables.run_table(recipe, run, full=True))
            printed(comparison_table(compare_models(folder, None, [])))


def printed(*parts: Any) -> str:
    with (console := Console(width=80)).capture() as text:
        console.print(*parts)
    return text.get()


def statistics(before: list[Any], after: list[Any], clusters: Any) -> None:
    """Intervals of both, the paired test with its interval and detectable difference, Holm over a family of four."""
    for values in (before, after):
        format_score(values, clusters)
    holm([compare(before, after, clusters).p] * 4)


def prompts() -> None:
    """IFEval's four accuracies, and as many ratings as prompts."""
    rng = random.Random(0)
    prompt_of = sorted([*range(PROMPTS), *rng.choices(range(PROMPTS), k=INSTRUCTIONS - PROMPTS)])
    families = [(f"{PROMPTS} prompts {way}", PROMPTS, None, lambda: rng.random() < 0.5) for way in ("strict", "loose")]
    families += [
        (f"{INSTRUCTIONS} instructions {way}", INSTRUCTIONS, prompt_of, lambda: rng.random() < 0.5)
        for way in ("strict", "loose")
    ]
    families += [(f"{PROMPTS} ratings (bootstrap, sign flips)", PROMPTS, None, lambda: rng.uniform(1, 10))]
    for name, count, clusters, value in families:
        before, after = ([value() for _ in range(count)] for _ in range(2))
        with timed(name):
            statistics(before, after, clusters)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        suite(Path(folder) / "run")
    prompts()
    rest = spent["whole"] - spent["loading"] - spent["generation"]
    total = spent["whole"] + spent["tables"]
    table = Table("what", "CPU seconds", "share")
    for name, seconds in (
        ("weights", spent["loading"]), ("generation", spent["generation"]), ("scores and files", rest),
        ("intervals, tests, tables", spent["tables"]),
    ):  # fmt: skip
        table.add_row(f"lamb's suite, {MODELS} models: {name}", f"{seconds:.2f}", f"{seconds / total:.0%}")
    table.add_section()
    statistics = {name: seconds for name, seconds in spent.items() if name[0].isdigit()}
    for name, seconds in statistics.items():
        table.add_row(f"statistics of {name}", f"{seconds:.3f}", "")
    four = sum(seconds for name, seconds in statistics.items() if "ratings" not in name)
    table.add_row("IFEval's four accuracies together", f"{four:.3f}", "")
    table.add_section()
    table.add_row("first use of libraries, not counted above", f"{spent['first use of libraries']:.2f}", "")
    Console(width=80).print(table)


if __name__ == "__main__":
    main()
