"""Measure how much memory an iteration's stages take, from tasks to exports, with a function as engine.

    python -m benchmarks.streaming [--rows 100000]     # --rows 1000000: a gigabyte of pairs

The rows are made up, a kilobyte each. The stages are those of a run: answers, ratings, perplexities, filters, training
rows, exports and the overlap with a benchmark's prompts. Peak is the process's largest resident set so far; a list of a
stage's rows would take several times the size of their file.
"""

import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import make_parser, run_script
from isheep.diagnostics.diversity import record_diversity
from isheep.engines.function import SeededFunctionEngine
from isheep.export import formats
from isheep.models.chat_template import ChatTemplate
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
END = "<|end|>"
ANSWER_TURN = "<|answer|>"
PROMPTS = [f"Which of the two rivers is the longer one, the first or the second of number {n}?" for n in range(500)]
SETTINGS = {
    "model": "fake",
    "filters": [{"kind": "score", "at_least": 8}, {"kind": "perplexity", "at_most": 50}],
    "response": {"batch_size": 64},
    "assessment": {"batch_size": 64},
}


class PlainChat(ChatTemplate):
    """A chat template without a tokenizer."""

    def prompt(self, content: str) -> str:
        return f"<|user|>{content}{ANSWER_TURN}"

    @property
    def special(self) -> frozenset[str]:
        return frozenset({END})


class MadeUpTasks(Sequence[Task]):
    """Tasks that are made when they are read, so that no list of them is in memory."""

    def __init__(self, num_tasks: int) -> None:
        self.num_tasks = num_tasks

    def __len__(self) -> int:
        return self.num_tasks

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self.num_tasks))]
        return Task(id=f"t1-{index:05d}", instruction=f"Tell me what you know about thing number {index} of the list")


def write(prompt: str, seed: int) -> str:
    """Return an answer of about a kilobyte, or a rating that every tenth pair fails."""
    if prompt.endswith(ANSWER_TURN):
        return f"{ANSWER}{seed}{END}"
    return f" {9 if seed % 20 else 2}||fine"


def run_stages(root: Path, count: int, report: Callable[[str], None], with_diversity: bool = True) -> None:
    """Run the stages of one iteration on `count` tasks in the folder `root`; call `report` at the end of each."""
    recipe, run = Recipe.model_validate(SETTINGS), RunFolder(root, root)
    chat = PlainChat(name="own", template="", end=END, tokenizer=None)
    context = StageContext(recipe, SeededFunctionEngine(write), chat, run, 1)
    tasks = context.folder.write("tasks.jsonl", Task, MadeUpTasks(count))
    report("tasks")
    pairs = respond(context, tasks)
    report("answers")
    if with_diversity:
        record_diversity(run, 1, pairs, "en")
        report("diversity statistics")
    measures = measure(context, pairs)
    report("perplexities")
    graded = assess(context, pairs)
    report("ratings")
    select_training_rows(context, graded, measures)
    rows = kept_pairs(graded, context.folder.read("dropped.jsonl", Drop))
    report("filters, train.json")
    for format_name in formats.FORMATS:
        formats.write_dataset(rows, format_name, root / "export" / f"{format_name}.json")
    report("exports")
    find_overlap(pairs, PROMPTS, 13, None)
    report("overlap with 500 prompts")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print CPU seconds, the size of the files and the peak of memory after each stage."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="Set the number of tasks.")
    args = parser.parse_args(arguments)
    print(f"{args.rows} rows\n{'after':<28}{'CPU s':>8}{'file MB':>9}{'peak MB':>9}")
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:

        def report(stage: str) -> None:
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{stage:<28}{time.process_time() - start:>8.0f}{size / 1e6:>9.0f}{peak:>9}", flush=True)

        run_stages(Path(folder), args.rows, report)


if __name__ == "__main__":
    run_script(main)
