"""How much memory do an iteration's stages take? Made-up rows behind a fake engine, from tasks to exports.

    python benchmarks/streaming.py [--rows 100000]     # --rows 1000000: a gigabyte of pairs

Answers, ratings, perplexities, filters, training rows as Alpaca, exports and the overlap with a benchmark's prompts, as
a run makes them. Peak is the process's largest resident set so far; the stages' rows in a list would take several times
the size of their file.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from isheep.diagnostics.diversity import record_diversity
from isheep.engines.function import SeededFunctionEngine
from isheep.export import formats
from isheep.recipe.schema import Recipe
from isheep.records import Drop, Task
from isheep.rundir.folder import RunFolder
from isheep.stages.assess import assess
from isheep.stages.context import StageContext
from isheep.stages.filters import kept_pairs
from isheep.stages.measure import measure
from isheep.stages.respond import respond
from isheep.stages.select import select_training_rows
from isheep.text.overlap import find_overlap

ANSWER = "It depends on the weather, on the season, and on who asks, so take the following with a grain of salt. " * 8
PROMPTS = [f"Which of the two rivers is the longer one, the first or the second of number {n}?" for n in range(500)]
SETTINGS = {
    "model": "fake",
    "filters": [{"kind": "score", "at_least": 8}, {"kind": "perplexity", "at_most": 50}],
    "response": {"batch_size": 64},
    "assessment": {"batch_size": 64},
}


class Chat(NamedTuple):
    end: str = "<|end|>"
    special: frozenset[str] = frozenset({"<|end|>"})

    def prompt(self, content: str) -> str:
        return f"<|user|>{content}<|answer|>"


class Tasks(Sequence[Task]):
    """`count` tasks, made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self.count))]
        return Task(id=f"t1-{index:05d}", instruction=f"Tell me what you know about thing number {index} of the list")


def write(prompt: str, seed: int) -> str:
    """An answer of about a kilobyte, or a rating that every tenth pair fails."""
    if prompt.endswith("<|answer|>"):
        return f"{ANSWER}{seed}<|end|>"
    return f" {9 if seed % 20 else 2}||fine"


def stages(root: Path, count: int, done: Callable[[str], None], watched: bool = True) -> None:
    """The stages of one iteration on `count` tasks, under `root`; `done` hears when each has ended."""
    recipe, run = Recipe.model_validate(SETTINGS), RunFolder(root, root)
    context = StageContext(recipe, SeededFunctionEngine(write), Chat(), run, 1)
    tasks = context.folder.write("tasks.jsonl", Task, Tasks(count))
    done("tasks")
    pairs = respond(context, tasks)
    done("answers")
    if watched:
        record_diversity(run, 1, pairs, "en")
        done("figures on narrowing")
    measures = measure(context, pairs)
    done("perplexities")
    graded = assess(context, pairs)
    done("ratings")
    select_training_rows(context, graded, measures)
    data = kept_pairs(graded, context.folder.read("dropped.jsonl", Drop))
    done("filters, train.json")
    for form in formats.FORMATS:
        formats.write_dataset(data, form, root / "export" / f"{form}.json")
    done("exports")
    find_overlap(pairs, PROMPTS, 13, None)
    done("overlap with 500 prompts")


def main(count: int) -> None:
    print(f"{count} rows\n{'after':<28}{'CPU s':>8}{'file MB':>9}{'peak MB':>9}")
    start = time.process_time()
    with tempfile.TemporaryDirectory() as name:

        def done(stage: str) -> None:
            size = sum(path.stat().st_size for path in Path(name).rglob("*") if path.is_file())
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{stage:<28}{time.process_time() - start:>8.0f}{size / 1e6:>9.0f}{peak:>9}", flush=True)

        stages(Path(name), count, done)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How much memory do an iteration's stages take?")
    parser.add_argument("--rows", type=int, default=100_000)
    main(parser.parse_args().rows)
