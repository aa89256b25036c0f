"""Print what the pairs of each iteration on lamb are like, and how long answers to the exam are (docs/reproduce.md).

    python -m benchmarks.training_pairs runs/reproduce/plain/seed-*

The runs are those of one setting. Of a dialogue the first turn counts.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmarks.common import make_parser, run_script
from isheep.lamb.world import understand
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir
from isheep.rundir.run import open_run
from isheep.rundir.training_file import TRAINING_FILE, read_training_file

COLUMNS = (
    "iteration",
    "kept pairs",
    "right in content",
    "meet all constraints, of those with a constraint",
    "one word, of those without a constraint",
    "words in an answer of the exam",
    '"at least N words" met',
    "a given ending met",
)


class PairTruth(NamedTuple):
    """What is true of a kept pair.

    `constraints_met` is None without a constraint, and `has_one_word` with one. Both are None if the world does not
    understand the task.
    """

    content_right: bool
    constraints_met: bool | None = None
    has_one_word: bool | None = None


def read_truths(folder: RunFolder) -> Iterator[PairTruth]:
    """Yield the truths of the first turns in train.json; none is right if the world does not understand the task."""
    for row in read_training_file(folder.path / TRAINING_FILE).rows:
        if row.history:
            continue
        quest, answer = understand(row.instruction, row.input), row.output
        if quest is None:
            yield PairTruth(content_right=False)
        elif quest.constraints:
            yield PairTruth(quest.content_right(answer), constraints_met=all(quest.followed(answer)))
        else:
            yield PairTruth(quest.content_right(answer), has_one_word=len(answer.split()) <= 1)


def count_words(folder: RunFolder) -> float:
    """Return the mean number of words in the greedy answers to the exam."""
    lines = (folder.path / "eval" / "lamb" / "greedy.jsonl").read_text(encoding="utf-8").splitlines()
    return fmean(len(json.loads(line)["output"].split()) for line in lines)


def constraint_share(folders: Sequence[RunFolder], kind: str) -> float:
    """Return the share of the exam's constraints of a kind that are met."""
    results = [json.loads((folder.path / "eval" / "lamb.json").read_text(encoding="utf-8")) for folder in folders]
    counts: list[tuple[int, int]] = [result["breakdowns"]["constraint"][kind] for result in results]
    return sum(met for met, _ in counts) / sum(number for _, number in counts)


def format_mean(values: Sequence[bool]) -> str:
    """Return a share in percent; "" without values."""
    return f"{fmean(values):.0%}" if values else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table with a line for the base and for each iteration."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="Name the run folders, one for each random seed.")
    args = parser.parse_args(arguments)
    recipes, runs = zip(*(open_run(path) for path in args.runs), strict=True)
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    for iteration in range(min(recipe.iterations for recipe in recipes) + 1):
        folders = [iteration_dir(run, iteration) for run in runs]
        truths = [truth for folder in folders for truth in read_truths(folder)] if iteration else []
        cells = (
            str(iteration),
            f"{len(truths) / len(runs):.0f}" if truths else "",
            format_mean([truth.content_right for truth in truths]),
            format_mean([truth.constraints_met for truth in truths if truth.constraints_met is not None]),
            format_mean([truth.has_one_word for truth in truths if truth.has_one_word is not None]),
            f"{fmean(map(count_words, folders)):.1f}",
            f"{constraint_share(folders, 'many'):.0%}",
            f"{constraint_share(folders, 'end'):.0%}",
        )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    run_script(main)
