"""Export an iteration of a run: its data in a usual format, or its model as one checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isheep.errors import UserError, option, shell_word
from isheep.export import ExportFormat, ExportRows, formats
from isheep.export.card_parts import NO_OPTIONS, CardOptions, CardSubject
from isheep.export.dataset_card import DATA_FILE, dataset_card
from isheep.export.model_card import model_card
from isheep.models.adapter_files import load_training_tokenizer
from isheep.models.chat_template import load_chat_template
from isheep.models.gguf_file import check_gguf_package
from isheep.recipe.public import public_name
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Drop, Model, Pair
from isheep.rundir.artifacts import BASE_DIR
from isheep.rundir.atomic import write_text
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import find_run_result, iteration_dir, model_of_iteration, parse_run_file
from isheep.rundir.progress import console
from isheep.rundir.run import open_run
from isheep.rundir.training_file import TRAINING_FILE, read_training_file, training_row
from isheep.stages.filters import kept_pairs
from isheep.trainers.adapter_dir import TRAINING_RECORD, check_training_file
from isheep.trainers.rows import select_examples


def export_dataset(
    run_dir: Path,
    export_format: ExportFormat,
    rows: ExportRows,
    iteration: int | None,
    output: Path | None,
    card: CardOptions | None = None,
) -> str:
    """Write the data of an iteration and return a line that says where, and which rows they are.

    None stands for the newest iteration, or for that of the run's result if the recipe has a stop rule.

    `rows` are the pairs that the filters kept, with training.data: all also those of the earlier iterations; or the
    rows that training used, without the held-out ones. With `card` the output is a new folder with the data and a card,
    as the Hub takes it. Raises UserError if the iteration has no such data.
    """
    is_folder = export_format == ExportFormat.llamafactory
    if rows == ExportRows.trained and is_folder:
        raise UserError("LLaMA-Factory holds rows out by itself: leave out --rows trained with --as llamafactory")
    recipe, run = open_run(run_dir)
    if iteration is None:
        iteration = default_data_iteration(recipe, run)
    kept = load_training_pairs(recipe, run, iteration)
    data: Sequence[formats.Row] = kept
    if rows == ExportRows.trained:
        data = load_trained_rows(recipe, run, iteration, kept)
    name = f"iter-{iteration}.trained" if rows == ExportRows.trained else f"iter-{iteration}"
    suffix = export_format if is_folder or card else f"{export_format}.json"
    output = output or run.path / "export" / f"{name}.{suffix}"
    if is_folder:
        _write_llamafactory_folder(recipe.at(iteration), run, iteration, data, output)
    elif card:
        subject = CardSubject(recipe, run, iteration, card)
        with formats.new_folder(output, "the dataset") as part:
            formats.write_dataset(data, export_format, part / DATA_FILE)
            write_text(part / formats.CARD_FILE, dataset_card(subject, export_format, rows, len(data)))
    else:
        formats.write_dataset(data, export_format, output)
    if rows == ExportRows.trained:
        return f"{output}: {len(data)} rows that were trained on, of {len(kept)} kept pairs"
    return f"{output}: {len(kept)} kept pairs ({_describe_training(run, iteration, len(kept))})"


def export_checkpoint(
    run_dir: Path, iteration: int | None, output_dir: Path | None, card: CardOptions = NO_OPTIONS
) -> str:
    """Write M^iteration (None: the run's result) with its adapter merged into the weights, and return the folder.

    Raises UserError if the model has no adapter, or if the folder exists.
    """
    subject, adapter = _find_adapter(run_dir, iteration, card)
    output_dir = output_dir or run_dir / "export" / adapter.parent.name
    model, chat = Model(subject.recipe.model, adapter), load_chat_template(*subject.recipe.chat_arguments)
    formats.write_merged_checkpoint(model, chat, output_dir, model_card(subject, "merged"))
    return str(output_dir)


def export_adapter(
    run_dir: Path, iteration: int | None, output_dir: Path | None, card: CardOptions = NO_OPTIONS
) -> str:
    """Write the adapter of M^iteration (None: the run's result) with a card, for others, and return the folder.

    It names its base as the Hub does, or a local base by the name of its folder. Raises UserError if the model has no
    adapter, or if the folder exists.
    """
    subject, adapter = _find_adapter(run_dir, iteration, card)
    output_dir = output_dir or run_dir / "export" / f"{adapter.parent.name}-adapter"
    base = subject.base_on_hub or public_name(subject.recipe.model)
    formats.write_adapter_folder(adapter, base, output_dir, model_card(subject, "adapter"))
    return str(output_dir)


def _find_adapter(run_dir: Path, iteration: int | None, card: CardOptions) -> tuple[CardSubject, Path]:
    """Return what the card of M^iteration is about, and its adapter. Raises UserError if it has none."""
    recipe, run = open_run(run_dir)
    model = model_of_iteration(recipe, run, iteration)
    if iteration is None:
        notify_of_result(recipe, run)
    if model.adapter is None:
        raise UserError(
            f"{run.path}: the base has no adapter to export: give {option('iteration')} 1 or more, once it is trained"
        )
    return CardSubject(recipe, run, parse_run_file(f"{model.adapter.parent.name}/")[0], card), model.adapter


def export_gguf(run_dir: Path, iteration: int | None, output_dir: Path | None) -> str:
    """Write the model of an iteration (None: the run's result) for llama.cpp and Ollama and return the folder.

    The folder has the adapter merged into the base as model.gguf, and a Modelfile. It is written completely or not at
    all. Raises UserError if the package gguf is missing, or if the model is of a kind that the conversion doesn't know.
    """
    check_gguf_package()
    recipe, run = open_run(run_dir)
    model = model_of_iteration(recipe, run, iteration)
    if iteration is None:
        notify_of_result(recipe, run)
    name = model.adapter.parent.name if model.adapter else BASE_DIR
    output_dir = output_dir or run.path / "export" / f"{name}-gguf"
    formats.write_gguf_folder(model, load_chat_template(*recipe.chat_arguments), output_dir)
    return str(output_dir)


# --- the rows


def default_data_iteration(recipe: Recipe, run: RunFolder) -> int:
    """Return the iteration of the run's result if a stop rule chooses it, otherwise the newest with filtered pairs."""
    if recipe.stop_rule and (result := find_run_result(recipe, run)).iteration:
        notify_of_result(recipe, run)
        return result.iteration
    return newest_filtered_iteration(recipe, run)


def notify_of_result(recipe: Recipe, run: RunFolder) -> None:
    """Say on standard error which iteration is exported if a stop rule chooses it."""
    if recipe.stop_rule:
        console.print(f"exporting {find_run_result(recipe, run)}", markup=False, soft_wrap=True)


def newest_filtered_iteration(recipe: Recipe, run: RunFolder) -> int:
    """Return the newest iteration whose pairs are filtered, or 1 if there is none."""
    iterations = range(1, recipe.iterations + 1)
    return max((index for index in iterations if iteration_dir(run, index).has("dropped.jsonl")), default=1)


def load_training_pairs(recipe: Recipe, run: RunFolder, iteration: int) -> Sequence[Pair]:
    """Return D^iteration; with training.data: all also the kept pairs of earlier iterations, in the trainer's order."""
    first = iteration
    while first > 1 and recipe.at(first).training.data == "all":
        first -= 1
    if first == iteration:
        return load_kept_pairs(run, iteration)
    return [pair for index in range(first, iteration + 1) for pair in load_kept_pairs(run, index)]


def load_kept_pairs(run: RunFolder, iteration: int) -> Sequence[Pair]:
    """Return D^iteration: the pairs that no filter dropped, with their ratings if they have any."""
    folder = iteration_dir(run, iteration)
    if iteration < 1 or not folder.has("dropped.jsonl"):
        raise UserError(
            f"{run.path} has no data of iteration {iteration} yet: see isheep status {shell_word(run.path)}"
        )
    pairs: Sequence[Pair]
    if folder.has("assessed.jsonl"):
        pairs = folder.read("assessed.jsonl", AssessedPair)
    else:
        pairs = folder.read("pairs.jsonl", Pair)
    return kept_pairs(pairs, folder.read("dropped.jsonl", Drop))


def load_trained_rows(recipe: Recipe, run: RunFolder, iteration: int, kept: Sequence[Pair]) -> Sequence[formats.Row]:
    """Return the rows that the trainer selected from the training file, without the held-out ones.

    They are kept pairs, with their ratings, unless the training file was edited before the training. Raises UserError
    if the iteration is not trained, or if the training file has changed since.
    """
    record = _training_record(run, iteration)
    if "rows" not in record:
        raise UserError(f"{run.path}: iteration {iteration} is not trained yet: leave out --rows trained")
    training_file = iteration_dir(run, iteration).checked(TRAINING_FILE)
    check_training_file(training_file.parent / "adapter", training_file)
    rows = read_training_file(training_file).rows
    chat = load_chat_template(*recipe.chat_arguments)
    tokenizer = load_training_tokenizer(Model(recipe.model), chat)
    examples = select_examples(rows, chat, tokenizer, recipe.at(iteration).training, record["seed"])
    if rows != [training_row(pair) for pair in kept]:
        return [example.row for example in examples.train]
    # An example holds the very object that was read from the file, so that rows with the same text stay apart.
    pair_of = {id(row): pair for row, pair in zip(rows, kept, strict=True)}
    return [pair_of[id(example.row)] for example in examples.train]


def _training_record(run: RunFolder, iteration: int) -> dict[str, Any]:
    folder, name = iteration_dir(run, iteration), f"adapter/{TRAINING_RECORD}"
    record: dict[str, Any] = folder.json(name, dict) if folder.has(name) else {}
    return record


def _describe_training(run: RunFolder, iteration: int, num_kept: int) -> str:
    """Return how many of the kept pairs were trained on and held out."""
    counts = _training_record(run, iteration).get("rows")
    if not counts:
        return "not trained on yet"
    trained, held_out = counts["trained"], counts.get("held_out", 0)
    parts = [f"{trained} of them were trained on"]
    if held_out:
        parts.append(f"{held_out} held out")
    if num_kept > trained + held_out:
        parts.append(f"{num_kept - trained - held_out} not used")
    return ", ".join(parts)


def _write_llamafactory_folder(
    recipe: Recipe, run: RunFolder, iteration: int, rows: Sequence[formats.Row], output_dir: Path
) -> None:
    adapter = iteration_dir(run, iteration - 1).checked("adapter") if iteration > 1 else None
    start_model = Model(recipe.model, adapter if recipe.training.start == "last" else None)
    formats.write_llamafactory_folder(recipe, start_model, rows, output_dir)
