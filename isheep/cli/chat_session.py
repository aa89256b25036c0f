"""Answering the lines of standard input with a model of a run, in the chat template that it was trained in."""

import contextlib
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from rich.text import Text

from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.batching import derive_seed
from isheep.cli.output import make_console
from isheep.evaluation.formatting import escape_unprintable
from isheep.recipe.schema import Recipe
from isheep.records import Completion, Model, Sampling
from isheep.rundir import progress
from isheep.rundir.iterations import find_run_result, model_of_iteration
from isheep.rundir.run import open_run


def chat_with_run(
    run_dir: Path, iteration: int | None, temperature: float, *, backend: Backend = DEFAULT_BACKEND
) -> None:
    """Print an answer to each line of standard input, until it ends or Ctrl-C.

    Shows a prompt on a terminal. Each line is a conversation of its own, because I-SHEEP trains on single turns.
    """
    recipe, run = open_run(run_dir)
    backend.check_code(recipe)
    model = model_of_iteration(recipe, run, iteration)
    console, is_terminal = make_console(), sys.stdin.isatty()
    result = find_run_result(recipe, run) if recipe.stop and iteration is None else None
    if result and not is_terminal:
        progress.console.print(f"answers of {result}", markup=False, soft_wrap=True)
    with contextlib.suppress(KeyboardInterrupt):
        if is_terminal:
            name = str(result or (model.adapter.parent.name if model.adapter else "base"))
            text = f"{recipe.model}, {name}; each line is a new conversation; Ctrl-D ends"
            console.print(Text(text), style="dim")
        for answer in answers(recipe, model, temperature, _lines(is_terminal), backend):
            truncated = " (cut off)" if answer.finish == "length" and is_terminal else ""
            console.print(Text.assemble(escape_unprintable(answer.text.strip()), (truncated, "dim")), soft_wrap=True)


def answers(
    recipe: Recipe, model: Model, temperature: float, lines: Iterator[str], backend: Backend = DEFAULT_BACKEND
) -> Iterator[Completion]:
    """Yield the model's answer to each line.

    Temperature 0 is greedy; above it, the seed of line n is derived from the run's seed and n.
    """
    chat_template = backend.load_chat_template(*recipe.chat_arguments)
    settings = recipe.response.sampling
    stop = (chat_template.end, *settings.stop)
    sampling = Sampling(**settings.model_dump() | {"temperature": temperature, "stop": stop})
    with closing(backend.open_engine(recipe, model)) as engine:
        for n, line in enumerate(lines):
            yield from engine.generate([chat_template.prompt(line)], sampling, derive_seed(recipe.seed, "chat", n))


def _lines(is_terminal: bool) -> Iterator[str]:
    """Yield the lines of standard input that are not blank, stripped."""
    if is_terminal:
        with contextlib.suppress(ImportError):
            # With readline loaded, input() edits lines and keeps a history.
            import readline  # noqa: F401
    else:
        with contextlib.suppress(AttributeError):
            sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    with contextlib.suppress(EOFError):
        while True:
            line = input("> ") if is_terminal else _read_line()
            if line.strip():
                yield line.strip()


def _read_line() -> str:
    if line := sys.stdin.readline():
        return line
    raise EOFError
