"""Two ways to read a rating, on the same pairs: the score in what the judge writes, and the expected score.

    python -m benchmarks.ratings --run runs/lamb [--model lamb] [--iteration 1] [--count 256]

Rates the pairs of a run's iteration with the recipe's judge settings, all criteria, each way: CPU seconds (the best
of `--repeats`), and how well the two agree, criterion by criterion. For lamb also how well each tells right answers
from wrong ones (AUROC of the scores against the micro-world's truth).
"""

import argparse
import tempfile
import time
from pathlib import Path

from scipy.stats import mannwhitneyu, pearsonr, spearmanr

from isheep.backends import open_engine
from isheep.engines import Engine
from isheep.lamb.suite import is_truly_right
from isheep.models.chat_template import load_chat_template
from isheep.recipe.schema import Assessment, Recipe
from isheep.records import AssessedPair, Model, Pair
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import open_run
from isheep.stages.assess import grade_pairs
from isheep.stages.context import StageContext


def rated(
    recipe: Recipe, engine: Engine, pairs: list[Pair], chat, settings: Assessment, repeats: int
) -> tuple[float, list[AssessedPair]]:
    """The best of `repeats` in CPU seconds of this process, and the graded pairs."""
    best, rows = float("inf"), []
    for _ in range(repeats):
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            context = StageContext(recipe, engine, chat, RunFolder(Path(folder), Path(folder)), 1)
            rows = list(grade_pairs(context, settings, pairs))
        best = min(best, time.process_time() - start)
    return best, rows


def scores(rows: list[AssessedPair], criterion: str) -> list[float | None]:
    return [row.grades[criterion].score for row in rows]


def auroc(values: list[float | None], right: list[bool]) -> float:
    """The chance that a right pair's score beats a wrong one's; unreadable ones left out."""
    sides: tuple[list[float], list[float]] = ([], [])
    for value, truth in zip(values, right, strict=True):
        if value is not None:
            sides[truth].append(value)
    wrong, good = sides
    return float(mannwhitneyu(good, wrong).statistic) / (len(good) * len(wrong)) if good and wrong else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--model", help="the judge (default: the run's base)")
    parser.add_argument("--iteration", type=int, default=1)
    parser.add_argument("--tokens", type=int, help="the longest reply (default: the recipe's)")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    recipe, run = open_run(args.run)
    pairs = run.read(f"iter-{args.iteration}/pairs.jsonl", Pair)[: args.count]
    chat = load_chat_template(recipe.chat_template, args.model or recipe.model)
    engine = open_engine(recipe, Model(args.model or recipe.model))
    written = (recipe.assessment or Assessment()).model_copy(update={"read": "generate"})
    if args.tokens:
        shorter = written.sampling.model_copy(update={"max_tokens": args.tokens})
        written = written.model_copy(update={"sampling": shorter})
    measured = written.model_copy(update={"read": "expected"})
    rated(recipe, engine, pairs[:2], chat, written, 1)  # the weights into memory
    slow, by_text = rated(recipe, engine, pairs, chat, written, args.repeats)
    fast, by_value = rated(recipe, engine, pairs, chat, measured, args.repeats)
    print(
        f"{len(pairs)} pairs, {len(written.criteria)} criteria: {slow:.2f} s generated, {fast:.2f} s expected, ", end=""
    )
    print(f"{slow / fast:.1f} times as fast")
    right = [is_truly_right(pair) for pair in pairs] if recipe.seed_tasks == "lamb" else []
    for criterion in written.criteria:
        generated_scores, expected_scores = scores(by_text, criterion), scores(by_value, criterion)
        readable = [
            (a, b) for a, b in zip(generated_scores, expected_scores, strict=True) if a is not None and b is not None
        ]
        if len(readable) < 2:
            print(f"{criterion}: {len(readable)} ratings readable both ways")
            continue
        first, second = zip(*readable, strict=True)
        near = sum(abs(a - b) <= 1 for a, b in readable) / len(readable)
        side = sum((a >= 8) == (b >= 8) for a, b in readable) / len(readable)
        unreadable = [values.count(None) for values in (generated_scores, expected_scores)]
        print(f"{criterion}: unreadable {unreadable[0]} generated, {unreadable[1]} expected; of the rest:")
        print(f"  Pearson {pearsonr(first, second).statistic:.2f}", end=", ")
        print(f"Spearman {spearmanr(first, second).statistic:.2f}", end=", ")
        print(f"within one point {near:.2f}, the same side of 8 {side:.2f}")
        print(f"  at least 8: {sum(a >= 8 for a in first)} generated, {sum(b >= 8 for b in second)} expected")
        if right:
            areas = [auroc(values, right) for values in (generated_scores, expected_scores)]
            print(f"  AUROC against the truth: {areas[0]:.2f} generated, {areas[1]:.2f} expected")


if __name__ == "__main__":
    main()
