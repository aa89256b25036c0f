"""A run's examples, page by page: pairs with their ratings, and what was left out and why."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from rich.text import Text

from isheep.errors import UserError
from isheep.evaluation.formatting import escape_unprintable
from isheep.filters.score import ScoreFilter
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Drop, Pair, Record, Rejected
from isheep.rundir.folder import RunFolder, open_run
from isheep.rundir.iterations import iteration_dir
from isheep.rundir.jsonl import filter_rows

R = TypeVar("R", bound=Record)


class Band(StrEnum):
    """A side of a threshold, or a rating that can't be read."""

    low = "low"
    high = "high"
    unreadable = "unreadable"


def show(
    path: Path,
    iteration: int,
    bands: Mapping[str, Band | None],
    at: float | None = None,
    dropped: bool = False,
    page: int = 1,
    rows: int = 10,
) -> Iterator[Text]:
    """What `isheep show` prints: the examples of one page under a line of counts.

    `bands` asks for a side of the threshold for some criteria (Table 6's quadrants): of `at`, or of the recipe's score
    filter. `dropped` leaves what is kept out, and adds what never became a pair or a task. Raises UserError where the
    run has no such iteration, page, rating or threshold.
    """
    recipe, run = open_run(path)
    recipe, folder = recipe.at(iteration), iteration_dir(run, iteration)
    if iteration < 1 or not (folder.has("pairs.jsonl") or dropped and folder.has("rejected.jsonl")):
        raise UserError(f"{path} has no answers of iteration {iteration} yet: see isheep status {path}")
    pairs: Sequence[Pair] = _rows(folder, "assessed.jsonl", AssessedPair) or _rows(folder, "pairs.jsonl", Pair)
    why = {drop.row: drop for drop in _rows(folder, "dropped.jsonl", Drop)}
    chosen: Sequence[Pair | Rejected] = quadrant(pairs, bands, recipe, at)
    if dropped:
        chosen = filter_rows(chosen, lambda pair: pair.id in why)
        if not any(bands.values()):
            chosen = [*chosen, *_rows(folder, "unanswered.jsonl", Rejected), *_rows(folder, "rejected.jsonl", Rejected)]
    yield _heading(chosen, why, page, rows, dropped)
    for row in chosen[(page - 1) * rows : page * rows]:
        yield rejected_card(row) if isinstance(row, Rejected) else pair_card(row, _fate(row, why, folder))


def quadrant(
    pairs: Sequence[Pair], bands: Mapping[str, Band | None], recipe: Recipe, at: float | None
) -> Sequence[Pair]:
    """The pairs whose ratings lie on the sides that `bands` asks for; None asks for nothing."""
    asked = {criterion: band for criterion, band in bands.items() if band}
    rated = recipe.assessment.criteria if recipe.assessment else ()
    for criterion in asked:
        if criterion not in rated:
            raise UserError(f"{criterion} is not rated in this run: its criteria are {', '.join(rated) or 'none'}")
    thresholds = {criterion: _threshold(recipe, criterion, at) for criterion in asked}
    return filter_rows(
        pairs, lambda pair: all(_band(pair, name, thresholds[name]) is band for name, band in asked.items())
    )


def _threshold(recipe: Recipe, criterion: str, at: float | None) -> ScoreFilter:
    """The score filter that splits low from high: `at`, or the recipe's first one for this criterion."""
    if at is not None:
        return ScoreFilter(kind="score", at_least=at, criteria=(criterion,))
    for score in recipe.filters:
        if isinstance(score, ScoreFilter) and (score.criteria is None or criterion in score.criteria):
            return score.model_copy(update={"criteria": (criterion,)})
    raise UserError(f"no filter of this run has a threshold for {criterion}: give one, such as --at 8")


def _band(pair: Pair, criterion: str, threshold: ScoreFilter) -> Band | None:
    grades = pair.grades if isinstance(pair, AssessedPair) else {}
    if criterion not in grades:
        return None
    if grades[criterion].score is None:
        return Band.unreadable
    return Band.low if threshold.reason_against(grades) else Band.high


# --- as text


def pair_card(row: Pair, fate: Text) -> Text:
    """An example with its ratings, and with what the judge wrote."""
    cut = " (cut off)" if row.finish == "length" else ""
    fields = {"instruction": row.instruction, "input": row.input, "thoughts": row.thoughts or ""}
    fields[f"output{cut}"] = "(no answer)" if row.unanswered else row.output or "(empty)"
    if isinstance(row, AssessedPair):
        for criterion, grade in row.grades.items():
            score = "unreadable" if grade.score is None else f"{grade.score:g}"
            fields[f"{criterion} {score}"] = grade.reply.strip()
    return _card(row.id, fate, {name: text for name, text in fields.items() if text or name.endswith("unreadable")})


def rejected_card(row: Rejected) -> Text:
    """What never became a pair, or a task."""
    return _card(row.id, Text(escape_unprintable(f"rejected by {row.by}: {row.why}"), "red"), {"text": row.text})


def _fate(row: Pair, why: Mapping[str, Drop], folder: RunFolder) -> Text:
    if drop := why.get(row.id):
        return Text(escape_unprintable(f"dropped by {drop.by}: {drop.why}"), "red")
    return Text("kept", "green") if folder.has("dropped.jsonl") else Text("not filtered yet", "yellow")


def _card(name: str, fate: Text, fields: Mapping[str, str]) -> Text:
    """Text objects only: rich reads no markup in them."""
    card = Text.assemble((escape_unprintable(name), "bold"), "  ", fate, "\n")
    for label, text in fields.items():
        shown = textwrap.indent(escape_unprintable(text), "    ", lambda line: True).lstrip(" ")
        card.append(f"  {escape_unprintable(label)}: ", "cyan").append(f"{shown}\n")
    return card


def _heading(chosen: Sequence[Pair | Rejected], why: Mapping[str, Drop], page: int, rows: int, dropped: bool) -> Text:
    pages = max(1, -(-len(chosen) // rows))
    if page > pages:
        raise UserError(f"there is no page {page}: {len(chosen)} rows make {pages} {'page' if pages == 1 else 'pages'}")
    parts = [f"{len(chosen)} {'row' if len(chosen) == 1 else 'rows'}, page {page} of {pages}"]
    if dropped:
        by = Counter(f"rejected by {r.by}" if isinstance(r, Rejected) else f"dropped by {why[r.id].by}" for r in chosen)
        parts += [f"{who}: {count}" for who, count in by.most_common()]
    return Text("; ".join(parts) + "\n", "bold")


def _rows(folder: RunFolder, name: str, kind: type[R]) -> Sequence[R]:
    """A file's rows, none where it is not there."""
    return folder.read(name, kind) if folder.has(name) else []
