"""Judge calibration as tables of 80 columns, with a row for each iteration and criterion."""

import math
from collections.abc import Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from isheep.diagnostics.judge_calibration import JudgeCalibration
from isheep.diagnostics.judge_kinds import VERDICTS, verdict
from isheep.evaluation.statistics import Estimate
from isheep.recipe.schema import NOT_SELF
from isheep.rundir.iterations import model_words

BARS = " ▁▂▃▄▅▆▇█"
# The column of judges has no room for the name of a model.
OTHER_JUDGE = "another"
LEFT_ALIGNED = ("kind", "judge", "criterion", "compared with", "truth", "against", "1 to 10")


def calibration_tables(calibrations: Sequence[JudgeCalibration]) -> Iterator[Table | Text]:
    """Yield what `isheep judge-calibration` prints."""
    yield score_table(calibrations)
    for judge in dict.fromkeys(calibration.judge for calibration in calibrations):
        if judge.endswith(NOT_SELF):
            yield Text(f"{OTHER_JUDGE}: {judge}\n", style="yellow")
    yield repeatability_table(calibrations)
    yield rank_table(calibrations)
    yield truth_table(calibrations)
    yield from kind_tables(calibrations[-1])
    if any(calibration.wins for calibration in calibrations):
        yield win_table(calibrations)
    if num_unreadable := calibrations[-1].num_unreadable_annotations:
        yield Text(f"unreadable lines of annotations, which are ignored: {num_unreadable}", style="yellow")


def score_table(calibrations: Sequence[JudgeCalibration]) -> Table:
    table = _table("scores", "judge", "criterion", "rated", "unreadable, %", "mean", "sd", "1 to 10")
    for calibration in calibrations:
        for criterion, scores in calibration.scores.items():
            table.add_row(
                str(calibration.iteration),
                OTHER_JUDGE if calibration.judge.endswith(NOT_SELF) else calibration.judge,
                escape(criterion),
                str(scores.num_rated),
                format_share(scores.unreadable),
                _number(scores.mean),
                _number(scores.standard_deviation),
                format_bars(scores.histogram),
            )
    return table


def repeatability_table(calibrations: Sequence[JudgeCalibration]) -> Table | Text:
    table = _table("the same pairs rated again", "criterion", "pairs", "equal, %", "within 1, %", "concordance")
    for calibration in calibrations:
        iteration, repeated = str(calibration.iteration), calibration.repeated
        for criterion, agreement in repeated.criteria.items():
            shares = format_share(agreement.equal), format_share(agreement.within_1)
            coefficient = format_coefficient(agreement.concordance)
            table.add_row(iteration, escape(criterion), str(agreement.num_pairs), *shares, coefficient)
        if repeated.same_decision:
            table.add_row(iteration, "kept or not", str(calibration.sample_size), format_share(repeated.same_decision))
    method = calibrations[-1].repeated.method
    table.caption = method
    return table if table.row_count else Text(f"the same pairs rated again: {method}\n")


def rank_table(calibrations: Sequence[JudgeCalibration]) -> Table:
    table = _table("scores compared with", "compared with", "criterion", "pairs", "rank correlation", "higher by")
    # Iterations may have other judges and other ways to read a score.
    for name in dict.fromkeys(name for calibration in calibrations for name in calibration.comparisons):
        for calibration in calibrations:
            for criterion, comparison in (calibration.comparisons.get(name) or {}).items():
                numbers = format_coefficient(comparison.rank_correlation), format_coefficient(comparison.difference)
                pairs = str(comparison.num_pairs)
                table.add_row(str(calibration.iteration), name, escape(criterion), pairs, *numbers)
    table.caption = "higher by: the run's scores minus the others; length: the answers' tokens"
    return table


def truth_table(calibrations: Sequence[JudgeCalibration]) -> Table | Text:
    table = _table("scores and the truth", "truth", "pairs", "right, %", "AUROC", "kept", "precision, %", "recall, %")
    for name in dict.fromkeys(name for calibration in calibrations for name in calibration.truth):
        for calibration in calibrations:
            if name in calibration.truth:
                truth = calibration.truth[name]
                kept = "-" if truth.num_passing is None else str(truth.num_passing)
                shares = format_share(truth.precision), format_share(truth.recall)
                numbers = str(truth.num_pairs), format_share(truth.right), format_coefficient(truth.auroc), kept
                table.add_row(str(calibration.iteration), escape(name), *numbers, *shares)
    table.caption = "kept: by the recipe's score filters; precision: right of kept; recall: kept of right"
    if table.row_count:
        return table
    return Text("the truth is not known: no benchmark has checked answers, and no person rated\n")


def kind_tables(calibration: JudgeCalibration) -> Iterator[Table]:
    """Yield how well the ratings of an iteration tell right from wrong pairs of each kind."""
    for label, by_kind in calibration.kinds.items():
        title = f"truth by kind of task ({label})"
        table = _table(title, "kind", "pairs", "right, %", "AUROC", "kept", "precision, %", "judge")
        for kind, truth in by_kind.items():
            kept = "-" if truth.num_passing is None else str(truth.num_passing)
            numbers = str(truth.num_pairs), format_share(truth.right), format_coefficient(truth.auroc), kept
            table.add_row(
                str(calibration.iteration), escape(kind), *numbers, format_share(truth.precision), verdict(truth)
            )
        table.caption = VERDICTS
        yield table


def win_table(calibrations: Sequence[JudgeCalibration]) -> Table:
    table = _table("people choose between answers", "against", "tasks", "win rate, %")
    for calibration in calibrations:
        for win in calibration.wins:
            against = model_words(win.against)
            table.add_row(str(calibration.iteration), against, str(win.num_tasks), format_share(win.win_rate))
    table.caption = "a tie counts half"
    return table


# --- formats


def format_bars(histogram: Mapping[str, int]) -> str:
    """Return how often each score was given, as ten bars; a score that was given at all has a visible bar."""
    largest = max(histogram.values(), default=0)
    return "".join(BARS[math.ceil(8 * count / largest) if largest else 0] for count in histogram.values())


def format_coefficient(result: Estimate | None) -> str:
    if result is None or math.isnan(result.low):
        return "-"
    return f"{result.value:.2f} \\[{result.low:.2f},{result.high:.2f}]"


def format_share(result: Estimate | None) -> str:
    if result is None or math.isnan(result.low):
        return "-"
    return f"{100 * result.value:.3g} \\[{100 * result.low:.0f},{100 * result.high:.0f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(title: str, *columns: str) -> Table:
    headings = [
        Column(name, justify="left" if name in LEFT_ALIGNED else "right", no_wrap=name in LEFT_ALIGNED)
        for name in columns
    ]
    return Table("t", *headings, title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
