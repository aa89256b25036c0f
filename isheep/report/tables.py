"""The paper's tables of runs: settings and iterations in rows, the scores of benchmarks in columns; and Table 6.

The best score of a column is bold and the second best underlined. An arrow marks a score that differs significantly
from what the table compares with: the base model of its run, or another setting.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from isheep.evaluation.counts import count_rows
from isheep.report.quadrants import Quadrant, quadrants
from isheep.report.run_data import RunData
from isheep.report.score_tables import BASE, ModelKey, ScoreColumn, ScoreTable
from isheep.report.settings import Setting
from isheep.report.table_formats import PaperCell, PaperRow, PaperTable
from isheep.rundir.iterations import model_words

MISSING = PaperCell("-")


def score_table(
    settings: Sequence[Setting],
    against: str = BASE,
    score_names: Sequence[str] = (),
    title: str = "Scores of each setting",
) -> PaperTable:
    """Return the paper's Tables 1 to 5: a row for each model, a column for each score. Arguments as of ScoreTable."""
    scores = ScoreTable(settings, against, score_names)
    rows = []
    ranks = {column: scores.ranks(column) for column in scores.columns}
    previous: int | None = None
    for key in sorted(scores.results, key=lambda key: (bool(key.iteration or not scores.shares_base), key)):
        cells = [_paper_cell(scores, ranks, key, column) for column in scores.columns]
        setting = settings[key.setting]
        is_common = not key.iteration and scores.shares_base
        group = -1 if is_common else key.setting
        name = "" if is_common or group == previous else setting.name
        labels = (name, model_words(key.iteration), _training_rows(setting, key.iteration))
        rows.append(PaperRow(labels if len(settings) > 1 else labels[1:], tuple(cells), group != previous))
        previous = group
    headings = ("setting", "model", "training rows")
    return PaperTable(
        name="scores",
        title=title,
        caption=_caption(scores, against),
        headings=headings if len(settings) > 1 else headings[1:],
        columns=tuple(scores.columns),
        rows=tuple(rows),
        numbers=tuple(_numbers(scores)),
    )


def _paper_cell(
    scores: ScoreTable, ranks: Mapping[ScoreColumn, dict[str, int]], key: ModelKey, column: ScoreColumn
) -> PaperCell:
    cell = scores.cells.get((key, column))
    if cell is None:
        return MISSING
    rank = ranks[column].get(cell.text, 0)
    return PaperCell(cell.text, cell.note, rank if rank < 3 else 0, scores.mark(cell))


def _training_rows(setting: Setting, iteration: int) -> str:
    """Return the number of rows that a model learned from, with its range over seeds; "" for the base."""
    if not iteration:
        return ""
    numbers = [count_rows(run.folder, iteration).trained for run in setting.runs]
    trained = sorted(number for number in numbers if number is not None)
    if not trained:
        return "-"
    return f"{trained[0]}" if trained[0] == trained[-1] else f"{trained[0]} to {trained[-1]}"


def _caption(scores: ScoreTable, against: str) -> str:
    """Return what the numbers, marks and small figures of a table are."""
    parts = ["Shares in %. Bold: best of a column; underlined: second best."]
    spreads = {cell.spread.num_seeds for cell in scores.cells.values()}
    if spreads == {1}:
        parts.append("One random seed; in brackets: 95% intervals over the items.")
    elif spreads:
        numbers = " or ".join(str(number) for number in sorted(spreads - {1}))
        alone = "; in brackets, with one seed: 95% intervals over the items" if 1 in spreads else ""
        parts.append(f"Means over {numbers} random seeds with their standard deviation (±){alone}.")
    reference = "the base model" if against == BASE else f"{against} in the same iteration"
    if scores.reference_iteration:
        reference = f"iteration {scores.reference_iteration} of the same setting"
    if scores.num_tests:
        tests = "one test" if scores.num_tests == 1 else f"the {scores.num_tests} tests of this table"
        parts.append(
            f"↑ and ↓: significantly higher or lower than {reference} (two-sided p below 0.05, corrected for {tests} "
            f"by Holm's method; scores with the same values are one test). {_unit_of_tests(scores)}"
        )
    templates: dict[str, dict[str, None]] = {}
    for results in scores.results.values():
        for title, by_seed in results.items():
            templates.setdefault(title, {}).update(dict.fromkeys(r.template for r in by_seed.values() if r.template))
    listed = "; ".join(f"{title}: {', '.join(names)}" for title, names in templates.items() if names)
    if listed:
        parts.append(f"Chat templates: {listed}.")
    notes = [run.recipe.judge_note for setting in scores.settings for run in setting.runs if run.recipe.judge_note]
    parts += [f"Note: {note}." for note in dict.fromkeys(notes)]
    return " ".join(parts)


def _unit_of_tests(scores: ScoreTable) -> str:
    tests = {cell.comparison.test for cell in scores.cells.values() if cell.comparison}
    over_seeds = {test for test in tests if test.endswith("over seeds")}
    if over_seeds == tests:
        return "The tests are over random seeds."
    if over_seeds:
        return "With several random seeds the test is over seeds, otherwise over the items of one run."
    return "The tests are over items: they say nothing about another random seed."


def _numbers(scores: ScoreTable) -> Iterator[dict[str, Any]]:
    """Yield a row for each score of each model, with all digits."""
    for (key, (benchmark, name)), cell in scores.cells.items():
        setting, comparison = scores.settings[key.setting], cell.comparison
        yield {
            "setting": setting.name,
            "iteration": key.iteration,
            "training_rows": _training_rows(setting, key.iteration),
            "benchmark": benchmark,
            "score": name,
            "unit": "share" if cell.is_share else "mean",
            "value": cell.value,
            "low": cell.spread.estimate.low,
            "high": cell.spread.estimate.high,
            "sd_over_seeds": cell.spread.deviation,
            "seeds": cell.spread.num_seeds,
            "items": len(next(iter(cell.scores.values())).items),
            "difference": comparison.difference if comparison else None,
            "test": comparison.test if comparison else None,
            "p": comparison.p if comparison else None,
            "p_holm": scores.corrected[cell.values] if comparison else None,
        }


# --- Table 6


def quadrant_table(run: RunData) -> PaperTable | None:
    """Return the paper's Table 6 of a run's newest rated iteration: the four quadrants with an example of each.

    None if no iteration's pairs are rated by two criteria.
    """
    rated = [iteration for iteration in run.iterations if len(iteration.criteria) == 2]
    if not rated:
        return None
    corners = quadrants(rated[-1])
    criteria = corners[0].criteria
    return PaperTable(
        name="quadrants",
        title=f"Generated pairs by their ratings, iteration {rated[-1].number}",
        caption=f"Good: {corners[0].thresholds}. Each example is drawn at random from its quadrant.",
        headings=("quadrant", "pairs"),
        columns=(("", "instruction"), ("", "input"), ("", "output"), *(("", criterion) for criterion in criteria)),
        rows=tuple(PaperRow((corner.label, _share(corner)), tuple(_example(corner)), True) for corner in corners),
        numbers=tuple(_quadrant_numbers(run)),
    )


def _share(corner: Quadrant) -> str:
    return f"{corner.count} ({corner.count / corner.total:.0%})" if corner.total else "0"


def _example(corner: Quadrant) -> Iterator[PaperCell]:
    if corner.example is None:
        yield from [MISSING] * 5
        return
    for text in (corner.example.instruction, corner.example.input, corner.example.output):
        yield PaperCell(text)
    for criterion in corner.criteria:
        yield PaperCell(f"{corner.example.grades[criterion].score:g}")


def _quadrant_numbers(run: RunData) -> Iterator[dict[str, Any]]:
    """Yield the counts of all iterations, with the ids of the examples."""
    for iteration in run.iterations:
        if len(iteration.criteria) == 2:
            for corner in quadrants(iteration):
                yield {
                    "iteration": corner.iteration,
                    "quadrant": corner.label,
                    "thresholds": corner.thresholds,
                    "pairs": corner.count,
                    "readable": corner.total,
                    "example": corner.example.id if corner.example else None,
                }
