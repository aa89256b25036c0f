"""Taking an iteration out of a run: its data in a usual form, or its model as one checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from isheep.errors import UserError
from isheep.export import ExportFormat, formats
from isheep.models.chat_template import load_chat_template
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Drop, Model, Pair
from isheep.rundir.folder import RunFolder, open_run
from isheep.rundir.iterations import iteration_dir, model_of_iteration
from isheep.stages.filters import kept_pairs


def export_iteration(path: Path, form: str | None, iteration: int | None, out: Path | None) -> str:
    """Write what M^t learns from in `form`, or M^t merged for None, and say where.

    `iteration` None is the newest that is there. Raises UserError where the iteration has no data or no model.
    """
    recipe, run = open_run(path)
    if form is None:
        return str(checkpoint(recipe, run, iteration, out))
    t = chosen(recipe, run) if iteration is None else iteration
    first = t
    while first > 1 and recipe.at(first).training.data == "all":
        first -= 1
    parts = [data(run, s) for s in range(first, t + 1)]
    rows = parts[0] if len(parts) == 1 else [pair for part in parts for pair in part]
    if form == ExportFormat.llamafactory:
        start = Model(recipe.model, iteration_dir(run, t - 1).path / "adapter" if t > 1 else None)
        out = out or path / "export" / f"iter-{t}.llamafactory"
        now = recipe.at(t)
        formats.write_llamafactory_folder(
            now, start if now.training.start == "last" else Model(recipe.model), rows, out
        )
    else:
        out = out or path / "export" / f"iter-{t}.{form}.json"
        formats.write_dataset(rows, form, out)
    return f"{out}: {len(rows)} pairs"


def checkpoint(recipe: Recipe, run: RunFolder, iteration: int | None, out: Path | None) -> Path:
    """M^t with its adapter in its weights."""
    model = model_of_iteration(recipe, run, iteration)
    if model.adapter is None:
        raise UserError(f"{run.path}: the base has no adapter to merge: give --iteration 1 or more, once it is trained")
    out = out or run.path / "export" / model.adapter.parent.name
    formats.write_merged_checkpoint(model, load_chat_template(recipe.chat_template, recipe.model), out)
    return out


def data(run: RunFolder, t: int) -> Sequence[Pair]:
    """D^t: the pairs of iteration t that nothing dropped, with their ratings where they have them."""
    folder = iteration_dir(run, t)
    if t < 1 or not folder.has("dropped.jsonl"):
        raise UserError(f"{run.path} has no data of iteration {t} yet: see isheep status {run.path}")
    rated = folder.has("assessed.jsonl")
    pairs: Sequence[Pair] = folder.read("assessed.jsonl", AssessedPair) if rated else folder.read("pairs.jsonl", Pair)
    return kept_pairs(pairs, folder.read("dropped.jsonl", Drop))


def chosen(recipe: Recipe, run: RunFolder) -> int:
    """The last iteration whose data are chosen, the first one where none are."""
    return max((t for t in range(1, recipe.iterations + 1) if iteration_dir(run, t).has("dropped.jsonl")), default=1)
