"""isheep export: write an iteration's data or model in another format."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.options import BaseOnHub, DatasetOnHub, License, RunDir
from isheep.cli.output import print_line
from isheep.errors import UserError
from isheep.export import ExportFormat, ExportRows

Rows = Annotated[
    ExportRows | None,
    typer.Option(
        help="Rows: the pairs that the filters kept, or those of them that training used, without the held-out "
        "rows (default: kept).",
        show_default=False,
    ),
]


def export(
    run_dir: RunDir,
    export_format: Annotated[
        ExportFormat | None, typer.Option("--as", help="Format of the iteration's data, or gguf.")
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Write the model instead: a checkpoint with the adapter merged in.")
    ] = False,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Write the adapter alone, with a card, as others can load it.")
    ] = False,
    rows: Rows = None,
    iteration: Annotated[
        int | None, typer.Option(help="Iteration (default: the newest, or the best by the recipe's stop rule).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Output file; folder with a model, gguf and --card (default: in DIR/export)."),
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Write the data as a folder with a dataset card (README.md).")
    ] = False,
    license_name: License = None,
    base_model: BaseOnHub = None,
    dataset_name: DatasetOnHub = None,
) -> None:
    """Write an iteration's data or model in another format.

    --as paper: the keys of the paper's Appendix B, with the scores. --as llamafactory: a folder that LLaMA-Factory can
    train in, with its YAML. --as gguf: the model for llama.cpp, and a Modelfile for Ollama. A folder of --merged and
    --adapter has a model card (README.md) for the Hugging Face Hub.
    """
    from isheep.export.card_parts import CardOptions, check_options
    from isheep.export.iteration import export_adapter, export_checkpoint, export_dataset, export_gguf

    if [export_format is not None, merged, adapter].count(True) != 1:
        raise UserError("give one of --as alpaca|sharegpt|messages|paper|llamafactory|gguf, --adapter and --merged")
    is_model = export_format in (None, ExportFormat.gguf)
    if rows and is_model:
        chosen = "--as gguf" if export_format else "--merged" if merged else "--adapter"
        raise UserError(f"--rows is for data, and {chosen} writes the model: leave it out")
    if card and (is_model or export_format is ExportFormat.llamafactory):
        raise UserError("--card is for data as alpaca, sharegpt, messages or paper: leave it out")
    options = CardOptions(license_name, base_model, dataset_name)
    check_options(options)
    if any(options) and not (card or merged or adapter):
        raise UserError("--license, --base-model and --dataset-name are for a card: add --card, or leave them out")
    if export_format is None:
        write_model = export_checkpoint if merged else export_adapter
        return print_line(write_model(run_dir, iteration, out, options))
    if export_format is ExportFormat.gguf:
        return print_line(export_gguf(run_dir, iteration, out))
    rows = rows or ExportRows.kept
    print_line(export_dataset(run_dir, export_format, rows, iteration, out, options if card else None))
