"""isheep export: write an iteration's data or model in another format."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.options import RunDir
from isheep.cli.output import print_line
from isheep.errors import UserError
from isheep.export import ExportFormat, ExportRows


def export(
    run_dir: RunDir,
    export_format: Annotated[
        ExportFormat | None, typer.Option("--as", help="Format of the iteration's data, or gguf.")
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Write the model instead: a checkpoint with the adapter merged in.")
    ] = False,
    rows: Annotated[
        ExportRows | None,
        typer.Option(
            help="Rows: the pairs that the filters kept, or those of them that training used, without the held-out "
            "rows (default: kept).",
            show_default=False,
        ),
    ] = None,
    iteration: Annotated[
        int | None, typer.Option(help="Iteration (default: the newest, or the best by the recipe's stop rule).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output file; folder with --merged and gguf (default: in DIR/export).")
    ] = None,
) -> None:
    """Write an iteration's data or model in another format.

    --as paper: the keys of the paper's Appendix B, with the scores. --as llamafactory: a folder that LLaMA-Factory can
    train in, with its YAML. --as gguf: the model for llama.cpp, and a Modelfile for Ollama.
    """
    from isheep.export.iteration import export_checkpoint, export_dataset, export_gguf

    if (export_format is None) != merged:
        raise UserError("give one of --as alpaca|sharegpt|messages|paper|llamafactory|gguf and --merged")
    if export_format is None:
        if rows:
            raise UserError("--rows is for data: leave it out with --merged")
        return print_line(export_checkpoint(run_dir, iteration, out))
    if export_format is ExportFormat.gguf:
        if rows:
            raise UserError("--rows is for data, and --as gguf writes the model: leave it out")
        return print_line(export_gguf(run_dir, iteration, out))
    print_line(export_dataset(run_dir, export_format, rows or ExportRows.kept, iteration, out))
