"""The arguments and options that several commands have in common."""

from pathlib import Path
from typing import Annotated

import typer

RunDir = Annotated[Path, typer.Argument(metavar="DIR", help="Run folder.", show_default=False)]
Data = Annotated[
    Path | None,
    typer.Option(help="Your copy of the benchmark's files, if it needs one.", show_default=False),
]
Benchmarks = Annotated[
    list[str] | None,
    typer.Argument(metavar="BENCHMARK", help="Names of benchmarks (default: those of the recipe).", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, with all digits.")]


def _allow_code(allowed: bool) -> bool:
    from isheep.extensions import allow_code

    allow_code(allowed)
    return allowed


AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Allow your own Python code (file.py:name) to be executed.", callback=_allow_code
    ),
]
UnsafeCode = Annotated[
    bool,
    typer.Option("--unsafe-code", help="Run model-written code (HumanEval, MBPP) even if no sandbox is available."),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="N or K,K,...",
        help="Number of random seeds: seed, seed + 1, ..., where seed is the recipe's; or a list. Each has a folder "
        "seed-K.",
        show_default=False,
    ),
]
BaseModelName = Annotated[
    str | None, typer.Option("--model", help="Base model: a folder, or a name on the Hugging Face Hub.")
]
License = Annotated[
    str | None,
    typer.Option("--license", help="Licence for the card, such as apache-2.0 (default: unknown).", show_default=False),
]
BaseOnHub = Annotated[
    str | None,
    typer.Option("--base-model", help="The base model's name on the Hub for the card, if the recipe names a folder."),
]
DatasetOnHub = Annotated[
    str | None,
    typer.Option("--dataset-name", help="The name on the Hub of the training data, for a model card."),
]
