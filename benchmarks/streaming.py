"""Measure the time and the memory of an iteration's stages, from synthesis to the report, with a function as engine.

    python -m benchmarks.streaming [--rows 10000 100000]     # --rows 1000000: a gigabyte of pairs

The rows are made up, a kilobyte each. The stages are those of a run: replies that are parsed into tasks by the rules,
answers, ratings, perplexities, filters, training rows, exports, the overlap with a benchmark's prompts, and the report.
Peak is the process's largest resident set in a stage; a list of a stage's rows would take several times the size of
their file. Each number of rows is measured in a process of its own. The last table has each stage's CPU seconds, and
the exponent of their growth: 1 means that twice the rows take twice the time. Novelty has a script of its own,
benchmarks.novelty.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import make_parser, run_script
from isheep.diagnostics.diversity import record_diversity
from isheep.engines.function import SeededFunctionEngine
from isheep.export import formats
from isheep.models.chat_template import ChatTemplate
from isheep.recipe.schema import Recipe
from isheep.records import Drop, Turns
from isheep.report import write_report
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import open_run_for_writing
from isheep.seeds import SeedTask
from isheep.stages.assess import assess
from isheep.stages.context import StageContext
from isheep.stages.filters import kept_pairs
from isheep.stages.measure import measure
from isheep.stages.respond import respond
from isheep.stages.select import select_training_rows
from isheep.stages.synthesize import synthesize
from isheep.text.overlap import find_overlap

ANSWER = "It depends on the weather, on the season, and on who asks, so take the following with a grain of salt. " * 8
TASKS_PER_REPLY = 20
END = "<|end|>"
ANSWER_TURN = "<|answer|>"
PROMPTS = [f"Which of the two rivers is the longer one, the first or the second of number {n}?" for n in range(500)]
SETTINGS = {
    "model": "fake",
    "iterations": 1,
    "filters": [{"kind": "score", "at_least": 8}, {"kind": "perplexity", "at_most": 50}],
    "response": {"batch_size": 64},
    "assessment": {"batch_size": 64},
}


class PlainChat(ChatTemplate):
    """A chat template without a tokenizer."""

    def conversation(self, turns: Turns, open_answer: bool = True) -> str:
        return "".join(f"<|{role}|>{content}" for role, content in turns) + ANSWER_TURN * open_answer

    @property
    def special(self) -> frozenset[str]:
        return frozenset({END})


def write(prompt: str, seed: int) -> str:
    """Return tasks, an answer of about a kilobyte, or a rating that every tenth pair fails."""
    if prompt.endswith("Instruction:"):
        tasks = (
            f" Tell me what you know about thing number {seed}{n:02d}\nInput: <noinput>" for n in range(TASKS_PER_REPLY)
        )
        return "\n###\n1. Instruction:".join(tasks)
    if prompt.endswith(ANSWER_TURN):
        return f"{ANSWER}{seed}{END}"
    return f" {9 if seed % 20 else 2}||fine"


def run_stages(root: Path, count: int, report: Callable[[str], None], with_diversity: bool = True) -> None:
    """Run the stages of one iteration on `count` tasks in the folder `root`; call `report` at the end of each."""
    recipe = Recipe.model_validate({**SETTINGS, "synthesis": {"tasks": count, "novelty": None}})
    with open_run_for_writing(root, recipe) as run:
        _run_stages(run, recipe, report, with_diversity)


def _run_stages(run: RunFolder, recipe: Recipe, report: Callable[[str], None], with_diversity: bool) -> None:
    chat, root = PlainChat(name="own", template="", end=END, tokenizer=None), run.path
    seeds = run.read("seeds.jsonl", SeedTask)
    context = StageContext(recipe, SeededFunctionEngine(write), chat, run, 1, seeds)
    tasks = synthesize(context, seeds)
    report("tasks, parsed from replies")
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


class Usage(NamedTuple):
    """What a stage took: CPU seconds; afterwards the size of all files and its largest resident set, in MB."""

    stage: str
    cpu_seconds: float
    megabytes: float
    peak: float


def measure_stages(num_rows: int) -> list[Usage]:
    """Run all stages in this process and print a line for each."""
    usages: list[Usage] = []
    with tempfile.TemporaryDirectory() as folder:
        root, start = Path(folder) / "run", time.process_time()

        def report(stage: str) -> None:
            size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / 1e6
            spent = time.process_time() - start - sum(usage.cpu_seconds for usage in usages)
            usages.append(Usage(stage, spent, size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
            print(f"{stage:<28}{spent:>8.1f}{size:>9.0f}{usages[-1].peak:>9.0f}", file=sys.stderr, flush=True)

        run_stages(root, num_rows, report)
        write_report(root)
        report("report")
    return usages


def growth_table(sizes: Sequence[int], usages: Sequence[Sequence[Usage]]) -> str:
    """Return each stage's CPU seconds by the number of rows, and the exponent between the last two, in Markdown."""
    head = [f"{size:,} rows" for size in sizes]
    lines = [f"| CPU s | {' | '.join(head)} | exponent |", f"|---|{'---:|' * (len(sizes) + 1)}"]
    for row in zip(*usages, strict=True):
        seconds = [usage.cpu_seconds for usage in row]
        exponent = "-"
        if len(sizes) > 1 and min(seconds[-2:]) > 0:
            exponent = f"{math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2]):.2f}"
        lines.append(f"| {row[0].stage} | {' | '.join(f'{value:.1f}' for value in seconds)} | {exponent} |")
    peaks = [f"{usage[-1].peak:.0f} MB" for usage in usages]
    return "\n".join([*lines, f"| peak memory | {' | '.join(peaks)} | |"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print CPU seconds, the size of the files and the peak of memory after each stage, and the growth."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="Set the numbers of tasks.")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        print(json.dumps(measure_stages(args.rows[0])))
        return
    usages = []
    for num_rows in args.rows:
        print(f"{num_rows} rows\n{'stage':<28}{'CPU s':>8}{'file MB':>9}{'peak MB':>9}", file=sys.stderr)
        command = [sys.executable, "-m", "benchmarks.streaming", "--child", "--rows", str(num_rows)]
        printed = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=os.environ).stdout
        usages.append([Usage(*values) for values in json.loads(printed)])
    print(growth_table(args.rows, usages))


if __name__ == "__main__":
    run_script(main)
