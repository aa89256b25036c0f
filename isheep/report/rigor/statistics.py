"""Items on figures: intervals, significance, correction, sample size, variance, seeds."""

import math
from statistics import fmean

from isheep.benchmarks import Score
from isheep.evaluation.formatting import (
    format_change,
    format_change_interval,
    format_detectable,
    format_estimate,
    format_p_value,
)
from isheep.evaluation.power import ALPHA
from isheep.evaluation.statistics import Comparison, estimate
from isheep.report.rigor.evidence import Evidence, RigorAnswer, ScoredResult, Verdict, command_on, seed_command, shorten
from isheep.report.rigor.setup import seeds_of

TABLE = "isheep report RUNS --out FOLDER (tables/scores.csv)"


def intervals(evidence: Evidence) -> RigorAnswer:
    """Answer with the main scores of each setting's result and their 95% intervals."""
    if not evidence.results:
        return _no_scores(evidence)
    lines = [f"{item.name}: {_interval(item)}" for item in evidence.results]
    unknown = [item for item in evidence.results if math.isnan(item.cell.spread.estimate.low)]
    return RigorAnswer("partly" if unknown else "answered", shorten(lines, TABLE), f"{TABLE}; isheep status DIR")


def _interval(item: ScoredResult) -> str:
    spread = item.cell.spread
    unit = f"over {spread.num_seeds} seeds" if spread.num_seeds > 1 else f"over {spread.estimate.num_items} items"
    return f"{format_estimate(spread.estimate, item.cell.is_share)}{'%' if item.cell.is_share else ''} {unit}"


def significance(evidence: Evidence) -> RigorAnswer:
    """Answer with the difference of each result to its base: interval, test, p, and p corrected."""
    scores = evidence.scores
    if scores is None or not evidence.compared:
        return _no_scores(evidence)
    lines = []
    for item in evidence.compared:
        result, share = item.cell.comparison, item.cell.is_share
        assert result
        change = f"{format_change(result.difference, share)} {format_change_interval(result.low, result.high, share)}"
        p = f"p {format_p_value(result.p)}, corrected {format_p_value(scores.corrected[item.cell.values])}"
        lines.append(f"{item.name}, minus base: {change}, {p} ({result.test})")
    verdict: Verdict = "answered" if len(evidence.compared) == len(evidence.results) else "partly"
    return RigorAnswer(verdict, shorten(lines, TABLE), f"{TABLE}; isheep compare DIR")


def correction(evidence: Evidence) -> RigorAnswer:
    """Answer with the number of tests, and how many are below 5% before and after Holm's correction."""
    scores = evidence.scores
    if scores is None or not scores.num_tests:
        return _no_scores(evidence)
    tests = {cell.values: cell.comparison.p for cell in scores.cells.values() if cell.comparison}
    before, after = (sum(p < ALPHA for p in values) for values in (tests.values(), scores.corrected.values()))
    lines = [
        f"{scores.num_tests} tests: the headline scores of all models in these folders against their base, corrected "
        "together (Holm); scores with the same values are one test.",
        f"p below 0.05: {before} before the correction, {after} after it.",
    ]
    return RigorAnswer("answered", lines, TABLE)


def sample_size(evidence: Evidence) -> RigorAnswer:
    """Answer with the number of items or seeds and the least difference that the test finds with a power of 80%."""
    scores = evidence.scores
    if scores is None or not evidence.compared:
        return _no_scores(evidence)
    lines, has_figure = [], True
    for item in evidence.compared:
        result, share = item.cell.comparison, item.cell.is_share
        assert result
        detectable = result.precision.detectable_at(ALPHA / max(1, scores.num_tests))
        has_figure &= not math.isnan(detectable)
        observations = "seeds" if result.test.endswith("over seeds") else "items"
        lines.append(f"{item.name}: {result.num_items} {observations}, {_detectable(result, detectable, share)}")
    note = f"At a power of 80% and a level of 5% over {scores.num_tests} tests; differences in points for shares."
    return RigorAnswer(
        "answered" if has_figure else "partly", [note, *shorten(lines, "--json")], "isheep compare DIR (in brackets)"
    )


def _detectable(result: Comparison, detectable: float, share: bool) -> str:
    """Return the minimum detectable difference beside the one that was measured."""
    if math.isnan(detectable):
        return "too few or too equal for a minimum detectable difference"
    text = f"minimum detectable difference {format_detectable(detectable, share)}"
    size = format_detectable(abs(result.difference), share)
    return (
        f"{text}; the measured one, {size}, is {'below it' if abs(result.difference) < detectable else 'not below it'}"
    )


def variance(evidence: Evidence) -> RigorAnswer:
    """Answer with the standard deviation of each main score over the random seeds."""
    spreads = [(item, item.cell.spread) for item in evidence.results if item.cell.spread.deviation is not None]
    if not spreads:
        return _one_seed(evidence, "No setting is scored with two random seeds, so that no spread is known.")
    lines = [
        f"{item.name}: standard deviation {format_detectable(spread.deviation or 0.0, item.cell.is_share)} over "
        f"{spread.num_seeds} seeds"
        for item, spread in spreads
    ]
    return _of_all_settings(evidence, lines, len(spreads) == len(evidence.results))


def seeds(evidence: Evidence) -> RigorAnswer:
    """Answer with the difference to the base for each random seed."""
    lines = []
    for item in evidence.results:
        reference = item.reference
        if len(reference) > 1:
            scale = 100 if item.cell.is_share else 1
            gains = [scale * (_mean(item.cell.scores[seed]) - _mean(score)) for seed, score in reference.items()]
            listed = ", ".join(f"{seed}: {gain:+.2f}" for seed, gain in zip(reference, gains, strict=True))
            gained = sum(gain > 0 for gain in gains)
            mean = f"mean {fmean(gains):+.2f}, a gain in {gained} of {len(gains)}"
            lines.append(f"{item.name}, minus base by seed: {listed}; {mean}")
    if not lines:
        return _one_seed(evidence, "No setting has two random seeds with a score and one of their base.")
    return _of_all_settings(evidence, lines, len(lines) == len(evidence.results))


def _mean(score: Score) -> float:
    """Return the mean of a score; nan if no item has a value."""
    return estimate(score.items).value


def _of_all_settings(evidence: Evidence, lines: list[str], is_complete: bool) -> RigorAnswer:
    if is_complete:
        return RigorAnswer("answered", shorten(lines, TABLE), TABLE)
    single = next((setting for setting in evidence.settings if not setting.has_seeds), None)
    command = seed_command(single.runs[0], seeds_of(single)) if single else ""
    return RigorAnswer("partly", [*shorten(lines, TABLE), "Other settings have one seed."], TABLE, command)


def _one_seed(evidence: Evidence, reason: str) -> RigorAnswer:
    first = evidence.settings[0]
    return RigorAnswer("not done", [reason], command=seed_command(first.runs[0], seeds_of(first)))


def _no_scores(evidence: Evidence) -> RigorAnswer:
    reason = "No iteration is scored beside its base on a benchmark."
    return RigorAnswer("not done", [reason], command=command_on("eval", evidence.runs[0].path))
