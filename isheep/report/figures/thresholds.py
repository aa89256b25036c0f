"""Figure 2a of the paper: the scores of each iteration against the threshold."""

from collections.abc import Sequence

from isheep.recipe.schema import Recipe
from isheep.report.figures import Figure
from isheep.report.figures.ablation import (
    Position,
    ablation_chart,
    ablation_rows,
    caption_of_seeds,
    settings_by_value,
)
from isheep.report.run_data import RunData

CAPTION = (
    "As the paper's Figure 2a. A pair is trained on if all its ratings reach the threshold. Threshold -1: neither "
    "Self-Instruct's rules nor ratings; 0: rules alone."
)
# The parts of a recipe that a threshold stands for.
NO_RULES, NO_RATINGS = -1.0, 0.0


def draw(runs: Sequence[RunData]) -> Figure | None:
    """Return the figure of runs that differ in their threshold alone; None for other runs."""
    settings = settings_by_value(runs, threshold_position)
    if not settings or not (rows := ablation_rows(settings, "threshold")):
        return None
    chart = ablation_chart(rows, "threshold", "threshold C (rating from 1 to 10)")
    return Figure("figure-2a", "Scores against the threshold", f"{CAPTION} {caption_of_seeds(rows)}", chart, rows)


def threshold_position(recipe: Recipe) -> Position | None:
    """Return a recipe's threshold, and the recipe without it; None if its filters have no single threshold.

    The paper calls a run without ratings threshold 0, and one without Self-Instruct's rules as well threshold -1.
    """
    data = recipe.model_dump(mode="json", exclude={"seed", "machine", "date"})
    score_filters = [rule for rule in data["filters"] if rule["kind"] == "score"]
    data["filters"] = [rule for rule in data["filters"] if rule["kind"] != "score"]
    optional = {"assessment": data.pop("assessment"), "novelty": data["synthesis"].pop("novelty")}
    rules = data["synthesis"].pop("rules")
    if optional["assessment"] is None:
        return Position(NO_RATINGS if rules else NO_RULES, data, optional)
    if len(score_filters) != 1 or not rules or score_filters[0]["at_least"] is None:
        # "above" has another meaning at the same number: runs of both kinds do not stand on one axis.
        return None
    return Position(float(score_filters[0]["at_least"]), data, optional)
