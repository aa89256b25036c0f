"""The pages that `isheep show` prints: pairs with their ratings, and rejected texts with the reasons."""

import textwrap
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from rich.text import Text

from isheep.cli.show import Band
from isheep.errors import UserError, shell_word
from isheep.evaluation.formatting import escape_unprintable
from isheep.filters.base import FilterContext
from isheep.filters.score import ScoreFilter
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Drop, Grade, Pair, Record, Rejected, Reply, dialogue_text
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir
from isheep.rundir.jsonl import filter_rows, whole_batches
from isheep.rundir.run import open_run
from isheep.seeds import SeedTask
from isheep.stages.grades import explanation_in, probabilities_in
from isheep.stages.synthesize import read_tasks

R = TypeVar("R", bound=Record)

# The scores that a card shows of an expected rating's probabilities.
NUM_PROBABLE = 3


class Selection(NamedTuple):
    """Which rows of an iteration to print.

    `bands` selects a side of the score threshold for each criterion (a quadrant of Table 6); None selects all. The
    threshold is `at`, or that of the recipe's score filter; a share of the best pairs is taken of all pairs. `dropped`
    selects the dropped pairs, and, if no band is given, the texts that never became a pair or a task too.
    """

    bands: Mapping[str, Band | None]
    at: float | None = None
    dropped: bool = False


class SelectedRows(NamedTuple):
    """The selected rows of an iteration, by the id of a pair why it was dropped, and who rated if not a model of it."""

    folder: RunFolder
    rows: Sequence[Pair | Rejected]
    drops: Mapping[str, Drop]
    judge_note: str | None = None


class Page(NamedTuple):
    """A page of rows: its number, from 1, and its length."""

    number: int = 1
    length: int = 10


def select_rows(path: Path, iteration: int, selection: Selection) -> SelectedRows:
    """Return the rows of an iteration of the run in `path`.

    Raises UserError if the run has no such iteration, rating or threshold.
    """
    recipe, run = open_run(path)
    recipe, folder = recipe.at(iteration), iteration_dir(run, iteration)
    if selection.dropped and not folder.has("rejected.jsonl") and (replies := unfinished_replies(folder)):
        return SelectedRows(folder, rejected_so_far(replies, recipe, run, iteration), {})
    if iteration < 1 or not (folder.has("pairs.jsonl") or selection.dropped and folder.has("rejected.jsonl")):
        raise UserError(f"{path} has no answers of iteration {iteration} yet: see isheep status {shell_word(path)}")
    pairs: Sequence[Pair] = _read(folder, "assessed.jsonl", AssessedPair) or _read(folder, "pairs.jsonl", Pair)
    drops = {drop.row: drop for drop in _read(folder, "dropped.jsonl", Drop)}
    rows: Sequence[Pair | Rejected] = select_bands(pairs, selection, recipe)
    if selection.dropped:
        rows = filter_rows(rows, lambda pair: pair.id in drops)
        if not any(selection.bands.values()):
            rows = [*rows, *_read(folder, "unanswered.jsonl", Rejected), *_read(folder, "rejected.jsonl", Rejected)]
    return SelectedRows(folder, rows, drops, recipe.assessment.judge_note if recipe.assessment else None)


def unfinished_replies(folder: RunFolder) -> Sequence[Reply]:
    """Return the replies of a synthesis that has not ended, or has failed: those that are saved so far."""
    if folder.has("replies.jsonl"):
        return folder.read("replies.jsonl", Reply)
    return whole_batches(folder.path / "replies.jsonl.part", Reply, batch_size=1)[0]


def rejected_so_far(replies: Sequence[Reply], recipe: Recipe, run: RunFolder, iteration: int) -> list[Rejected]:
    """Return the candidates in replies that became no task, and whole replies that hold no candidate, with reasons."""
    seed_tasks = run.read("seeds.jsonl", SeedTask)
    tasks, rejected = read_tasks(replies, seed_tasks, recipe.synthesis, recipe.language, iteration)
    with_candidates = {row.id.rpartition(".")[0] for row in rejected}
    if not tasks:
        rejected += [
            Rejected(
                id=reply.id,
                text=reply.text,
                by="parse",
                why="no instruction in the reply" if reply.text.strip() else "empty",
            )
            for reply in replies
            if reply.id not in with_candidates
        ]
    return rejected


def select_bands(pairs: Sequence[Pair], selection: Selection, recipe: Recipe) -> Sequence[Pair]:
    """Return the pairs whose ratings lie on the selected sides of the threshold."""
    bands = {criterion: band for criterion, band in selection.bands.items() if band}
    criteria = recipe.assessment.criteria if recipe.assessment else ()
    for criterion in bands:
        if criterion not in criteria:
            raise UserError(f"{criterion} is not rated in this run: its criteria are {', '.join(criteria) or 'none'}")
    low_ids = {
        criterion: {id for id, _ in _threshold(recipe, criterion, selection.at).reasons(pairs, FilterContext())}
        for criterion in bands
    }
    return filter_rows(
        pairs, lambda pair: all(_band(pair, name, low_ids[name]) is band for name, band in bands.items())
    )


def _threshold(recipe: Recipe, criterion: str, at: float | None) -> ScoreFilter:
    """Return the filter that splits low from high: one at `at`, or the recipe's first score filter of the criterion."""
    if at is not None:
        return ScoreFilter(kind="score", at_least=at, criteria=(criterion,))
    for score in recipe.filters:
        if isinstance(score, ScoreFilter) and (score.criteria is None or criterion in score.criteria):
            return score.model_copy(update={"criteria": (criterion,)})
    raise UserError(f"no filter of this run has a threshold for {criterion}: give one, such as --at 8")


def _band(pair: Pair, criterion: str, low_ids: Collection[str]) -> Band | None:
    grades = pair.grades if isinstance(pair, AssessedPair) else {}
    if criterion not in grades:
        return None
    if grades[criterion].score is None:
        return Band.unreadable
    return Band.low if pair.id in low_ids else Band.high


def _read(folder: RunFolder, name: str, row_type: type[R]) -> Sequence[R]:
    """Return the rows of a file; none if it does not exist."""
    return folder.read(name, row_type) if folder.has(name) else []


# --- as text


def page_texts(selected: SelectedRows, selection: Selection, page: Page) -> Iterator[Text]:
    """Yield the heading and the rows of a page. Raises UserError if there is no such page."""
    heading = _heading(selected, selection, page)
    if selection.dropped and not selected.drops and selected.folder.has("dropped.jsonl"):
        yield Text("no pair was dropped", "bold")
    yield heading
    for row in _rows_of_page(selected, page):
        yield rejected_card(row) if isinstance(row, Rejected) else pair_card(row, _outcome(row, selected))
    if page.number < _num_pages(selected, page):
        yield Text(f"next: --page {page.number + 1}")


def pair_card(row: Pair, outcome: Text) -> Text:
    """Return a pair with its ratings, each with the score once and the judge's explanation."""
    truncated = " (cut off)" if row.finish == "length" else ""
    dialogue = dialogue_text(row.history, row.instruction)
    fields = {"instruction": dialogue, "input": row.input, "thoughts": row.thoughts or ""}
    fields[f"output{truncated}"] = "(no answer)" if row.unanswered else row.output or "(empty)"
    fields = {name: text for name, text in fields.items() if text}
    if isinstance(row, AssessedPair):
        fields |= {f"{criterion} {score_text(grade)}": grade_text(grade) for criterion, grade in row.grades.items()}
    return _card(row.id, outcome, fields)


def score_text(grade: Grade) -> str:
    """Return the score of a rating, with the expected score beside a constrained one."""
    if grade.score is None:
        return "unreadable"
    return f"{grade.score:g}" if grade.expected is None else f"{grade.score:g} (expected {grade.expected:.1f})"


def grade_text(grade: Grade) -> str:
    """Return what there is to say beside the score: the explanation, or the most probable scores of an expected one."""
    probabilities = probabilities_in(grade.reply)
    if probabilities is None:
        return explanation_in(grade).strip()
    ranking = sorted(range(len(probabilities)), key=lambda index: -probabilities[index])
    shares = [f"{index + 1} ({probabilities[index]:.0%})" for index in ranking[:NUM_PROBABLE]]
    return f"most probable {', '.join(shares)}"


def rejected_card(row: Rejected) -> Text:
    """Return a text that did not become a pair or a task, with the reason."""
    return _card(row.id, Text(escape_unprintable(f"rejected by {row.by}: {row.why}"), "red"), {"text": row.text})


def _outcome(row: Pair, selected: SelectedRows) -> Text:
    if drop := selected.drops.get(row.id):
        return Text(escape_unprintable(f"dropped by {drop.by}: {drop.why}"), "red")
    return Text("kept", "green") if selected.folder.has("dropped.jsonl") else Text("not filtered yet", "yellow")


def _card(name: str, outcome: Text, fields: Mapping[str, str]) -> Text:
    """Return a card of a row. It is made of Text objects only, in which rich does not read markup."""
    card = Text.assemble((escape_unprintable(name), "bold"), "  ", outcome, "\n")
    for label, text in fields.items():
        indented = textwrap.indent(escape_unprintable(text), "    ", lambda line: True).lstrip(" ")
        card.append(f"  {escape_unprintable(label)}{': ' if text else ''}", "cyan").append(f"{indented}\n")
    return card


def _heading(selected: SelectedRows, selection: Selection, page: Page) -> Text:
    pages = _num_pages(selected, page)
    num_rows = len(selected.rows)
    rows_word, pages_word = ("row" if num_rows == 1 else "rows"), ("page" if pages == 1 else "pages")
    if page.number > pages:
        raise UserError(f"there is no page {page.number}: {num_rows} rows make {pages} {pages_word}")
    parts = [f"{num_rows} {rows_word}, page {page.number} of {pages}"]
    if selected.judge_note:
        parts.append(escape_unprintable(selected.judge_note))
    if selection.dropped:
        counts = Counter(_dropped_by(row, selected) for row in selected.rows)
        parts += [f"{dropped_by}: {count}" for dropped_by, count in counts.most_common()]
    return Text("; ".join(parts) + "\n", "bold")


def _dropped_by(row: Pair | Rejected, selected: SelectedRows) -> str:
    if isinstance(row, Rejected):
        return f"rejected by {row.by}"
    return f"dropped by {selected.drops[row.id].by}"


def _num_pages(selected: SelectedRows, page: Page) -> int:
    return max(1, -(-len(selected.rows) // page.length))


def _rows_of_page(selected: SelectedRows, page: Page) -> Sequence[Pair | Rejected]:
    return selected.rows[(page.number - 1) * page.length : page.number * page.length]


# --- as JSON


def page_values(selected: SelectedRows, page: Page) -> dict[str, object]:
    """Return a page as plain values: each row with its fields, its outcome, and the reason if it was not kept."""
    pages = _num_pages(selected, page)
    if page.number > pages:
        raise UserError(f"there is no page {page.number}: {len(selected.rows)} rows make {pages} pages")
    rows = [_row_values(row, selected) for row in _rows_of_page(selected, page)]
    return {"num_rows": len(selected.rows), "page": page.number, "num_pages": pages, "rows": rows}


def _row_values(row: Pair | Rejected, selected: SelectedRows) -> dict[str, object]:
    values = row.model_dump(mode="json")
    if isinstance(row, Rejected):
        return {**values, "outcome": "rejected"}
    if drop := selected.drops.get(row.id):
        return {**values, "outcome": "dropped", "by": drop.by, "why": drop.why}
    return {**values, "outcome": "kept" if selected.folder.has("dropped.jsonl") else "not filtered yet"}
