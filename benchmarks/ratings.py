"""Compare two ways to read a rating of the same pairs: the score that the judge generates, and the expected score.

    python -m benchmarks.ratings --run runs/lamb [--model lamb] [--iteration 1] [--count 256]

Rates the pairs of a run's iteration with all criteria of the recipe in both ways. Prints CPU seconds (the best of
`--repeats`) and how well the two ways agree on each criterion. For a run on lamb it also prints how well each way tells
right answers from wrong ones (the AUROC of the scores against the truth of the micro-world).
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scipy.stats import pearsonr, spearmanr

from benchmarks.common import best_time, make_parser, run_script
from isheep.backends import open_engine
from isheep.engines import Engine
from isheep.evaluation.statistics import auroc
from isheep.lamb.suite import is_truly_right
from isheep.models.chat_template import ChatTemplate, load_chat_template
from isheep.recipe.schema import Assessment, Recipe
from isheep.records import AssessedPair, Model, Pair
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import open_run
from isheep.stages.assess import grade_pairs
from isheep.stages.context import StageContext

LEAST_SCORE = 8
"""The threshold of the paper: a pair below it is dropped."""


@dataclass(frozen=True)
class Judge:
    """A model that rates pairs with a recipe's settings."""

    recipe: Recipe
    engine: Engine
    chat: ChatTemplate

    def grade(self, settings: Assessment, pairs: Sequence[Pair]) -> list[AssessedPair]:
        """Return the pairs with their grades, which are written into a new folder, as a run writes them."""
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder(Path(folder), Path(folder))
            return list(grade_pairs(StageContext(self.recipe, self.engine, self.chat, run, 1), settings, pairs))


def criterion_scores(rows: Sequence[AssessedPair], criterion: str) -> list[float | None]:
    """Return the score of each row, None for an unreadable one or a pair that was not rated."""
    grades = [row.grades.get(criterion) for row in rows]
    return [grade.score if grade else None for grade in grades]


def format_auroc(scores: Sequence[float | None], right: Sequence[bool]) -> str:
    """Return the AUROC of the readable scores."""
    rows = [(score, truth) for score, truth in zip(scores, right, strict=True) if score is not None]
    return f"{auroc([score for score, _ in rows], [truth for _, truth in rows]).value:.2f}"


def print_agreement(criterion: str, generated: Sequence[float | None], expected: Sequence[float | None]) -> None:
    """Print how well the two ways agree on a criterion."""
    readable = [(a, b) for a, b in zip(generated, expected, strict=True) if a is not None and b is not None]
    if len(readable) < 2:
        print(f"{criterion}: {len(readable)} ratings readable both ways")
        return
    first, second = zip(*readable, strict=True)
    near = sum(abs(a - b) <= 1 for a, b in readable) / len(readable)
    same_side = sum((a >= LEAST_SCORE) == (b >= LEAST_SCORE) for a, b in readable) / len(readable)
    unreadable = [list(scores).count(None) for scores in (generated, expected)]
    high = [sum(score >= LEAST_SCORE for score in scores) for scores in (first, second)]
    print(f"{criterion}: unreadable {unreadable[0]} generated, {unreadable[1]} expected; of the rest:")
    print(f"  Pearson {pearsonr(first, second).statistic:.2f}", end=", ")
    print(f"Spearman {spearmanr(first, second).statistic:.2f}", end=", ")
    print(f"within one point {near:.2f}, the same side of {LEAST_SCORE} {same_side:.2f}")
    print(f"  at least {LEAST_SCORE}: {high[0]} generated, {high[1]} expected")


def main(arguments: Sequence[str] | None = None) -> None:
    """Rate the pairs in both ways and print the comparison."""
    parser = make_parser(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="Name the run folder that has the pairs.")
    parser.add_argument("--model", help="Name the judge; the default is the run's base.")
    parser.add_argument("--iteration", type=int, default=1, help="Set the iteration whose pairs are rated.")
    parser.add_argument("--tokens", type=int, help="Set the longest reply; the default is the recipe's.")
    parser.add_argument("--count", type=int, default=256, help="Set the largest number of pairs.")
    parser.add_argument("--repeats", type=int, default=2, help="Set how often each way is timed.")
    args = parser.parse_args(arguments)
    recipe, run = open_run(args.run)
    pairs = run.read(f"iter-{args.iteration}/pairs.jsonl", Pair)[: args.count]
    chat = load_chat_template(recipe.chat_template, args.model or recipe.model)
    judge = Judge(recipe, open_engine(recipe, Model(args.model or recipe.model)), chat)
    generate = (recipe.assessment or Assessment()).model_copy(update={"read": "generate"})
    if args.tokens:
        shorter = generate.sampling.model_copy(update={"max_tokens": args.tokens})
        generate = generate.model_copy(update={"sampling": shorter})
    expect = generate.model_copy(update={"read": "expected"})
    # The first call loads the weights.
    judge.grade(generate, pairs[:2])
    seconds, generated_rows = best_time(partial(judge.grade, generate, pairs), args.repeats)
    expected_seconds, expected_rows = best_time(partial(judge.grade, expect, pairs), args.repeats)
    print(f"{len(pairs)} pairs, {len(generate.criteria)} criteria", end=": ")
    print(f"{seconds:.2f} s generated, {expected_seconds:.2f} s expected", end=", ")
    print(f"{seconds / expected_seconds:.1f} times as fast")
    right = [is_truly_right(pair) for pair in pairs] if recipe.seed_tasks == "lamb" else []
    for criterion in generate.criteria:
        generated, expected = (criterion_scores(rows, criterion) for rows in (generated_rows, expected_rows))
        print_agreement(criterion, generated, expected)
        if right:
            areas = [format_auroc(scores, right) for scores in (generated, expected)]
            print(f"  AUROC against the truth: {areas[0]} generated, {areas[1]} expected")


if __name__ == "__main__":
    run_script(main)
