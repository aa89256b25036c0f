"""isheep push: upload a model or the data of an iteration to the Hugging Face Hub."""

from typing import TYPE_CHECKING, Annotated

import typer

from isheep.cli.options import BaseOnHub, DatasetOnHub, License, RunDir
from isheep.cli.output import print_line
from isheep.errors import UserError
from isheep.export import ExportFormat, ExportRows

if TYPE_CHECKING:
    from isheep.export.hub import Upload

DATA_FORMATS = (ExportFormat.alpaca, ExportFormat.sharegpt, ExportFormat.messages, ExportFormat.paper)


def push(
    run_dir: RunDir,
    repo: Annotated[str, typer.Option("--repo", metavar="OWNER/NAME", help="Repository on the Hugging Face Hub.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="Upload the checkpoint with the adapter merged in, not the adapter alone.")
    ] = False,
    dataset: Annotated[
        bool, typer.Option("--dataset", help="Upload the iteration's data, to a repository for datasets.")
    ] = False,
    iteration: Annotated[
        int | None, typer.Option(help="Iteration (default: the newest, or the best by the recipe's stop rule).")
    ] = None,
    export_format: Annotated[
        ExportFormat | None, typer.Option("--as", help="Format of the data (default: alpaca).", show_default=False)
    ] = None,
    rows: Annotated[
        ExportRows | None, typer.Option(help="Rows of the data, as in isheep export.", show_default=False)
    ] = None,
    license_name: License = None,
    base_model: BaseOnHub = None,
    dataset_name: DatasetOnHub = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private if it does not exist yet.")
    ] = False,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Leave out report.html, which holds all generated texts.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Upload. Without it, files and card are only shown.")] = False,
) -> None:
    """Upload a model or data to the Hugging Face Hub.

    A card goes with it, and report.html if the run has one. Without --yes nothing is uploaded: the files lie in
    DIR/export, and their names, their sizes and the card are shown. The token is that of HF_TOKEN or of the login
    (hf auth login).
    """
    from isheep.export.card_parts import CardOptions, check_options
    from isheep.export.hub import Published, prepare_upload, upload_folder
    from isheep.report import REPORT_FILE

    _check_words(merged, dataset, export_format, rows)
    options = CardOptions(license_name, base_model, dataset_name, repo)
    check_options(options)
    published: Published = "dataset" if dataset else "merged" if merged else "adapter"
    data_format, data_rows = export_format or ExportFormat.alpaca, rows or ExportRows.kept
    upload = prepare_upload(run_dir, published, iteration, options, data_format, data_rows, with_report=not no_report)
    if yes:
        amount = _print_files(upload)
        return print_line(f"uploaded {amount}: {upload_folder(upload, private)}")
    for line in upload.card.splitlines():
        print_line(line)
    amount = _print_files(upload)
    if any(path.name == REPORT_FILE for path in upload.files):
        print_line(
            f"{REPORT_FILE} holds all generated texts, and the prompts and answers of benchmarks: look at their "
            "licences, or leave it out with --no-report"
        )
    print_line(f"nothing was uploaded; with --yes these {amount} go to {upload.url} ({upload.folder})")


def _check_words(merged: bool, dataset: bool, export_format: ExportFormat | None, rows: ExportRows | None) -> None:
    """Raise UserError for options that exclude each other."""
    if merged and dataset:
        raise UserError("--merged uploads a model and --dataset the data: give one of them, in two calls")
    if (export_format or rows) and not dataset:
        raise UserError("--as and --rows are for --dataset: leave them out")
    if export_format and export_format not in DATA_FORMATS:
        raise UserError(f"--as {export_format} is no format of a dataset: take one of {', '.join(DATA_FORMATS)}")


def _print_files(upload: "Upload") -> str:
    """Print the files with their sizes, and return how many they are and how large together."""
    for path in upload.files:
        print_line(f"{_size(path.stat().st_size):>9}  {path.relative_to(upload.folder)}")
    return f"{len(upload.files)} files, {_size(sum(path.stat().st_size for path in upload.files))}"


def _size(num_bytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} B"
