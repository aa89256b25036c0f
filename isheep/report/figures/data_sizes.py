"""Figure 2b of the paper: the scores of each iteration against the number of generated tasks."""

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

CAPTION = "As the paper's Figure 2b: the data size is the number of tasks that the model writes in an iteration."


def draw(runs: Sequence[RunData]) -> Figure | None:
    """Return the figure of runs that differ in the number of tasks alone; None for other runs."""
    settings = settings_by_value(runs, size_position)
    if not settings or not (rows := ablation_rows(settings, "tasks")):
        return None
    chart = ablation_chart(rows, "tasks", "tasks written in an iteration")
    return Figure("figure-2b", "Scores against the data size", f"{CAPTION} {caption_of_seeds(rows)}", chart, rows)


def size_position(recipe: Recipe) -> Position:
    """Return a recipe's number of tasks, and the recipe without it and without the budget of prompts."""
    data = recipe.model_dump(mode="json", exclude={"seed", "machine", "date"})
    data["synthesis"].pop("budget")
    return Position(data["synthesis"].pop("tasks"), data, {})
