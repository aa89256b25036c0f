"""Talking to a run's model: each line is asked by itself, in the chat template that the model was trained in."""

import contextlib
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.text import Text

from isheep.backends import open_engine
from isheep.batching import derive_seed
from isheep.evaluation.formatting import escape_unprintable
from isheep.models.chat_template import load_chat_template
from isheep.recipe.schema import Recipe
from isheep.records import Completion, Model, Sampling
from isheep.rundir.folder import open_run
from isheep.rundir.iterations import model_of_iteration


def chat_with_run(path: Path, iteration: int | None, temperature: float, console: Console) -> None:
    """What `isheep chat` does: print an answer to each line of standard input, until it ends or Ctrl-C.

    On a terminal with a prompt. A line knows nothing of the lines before it: I-SHEEP aligns on single turns.
    """
    recipe, run = open_run(path)
    model = model_of_iteration(recipe, run, iteration)
    interactive = sys.stdin.isatty()
    with contextlib.suppress(KeyboardInterrupt):
        if interactive:
            name = model.adapter.parent.name if model.adapter else "the base"
            console.print(Text(f"{recipe.model}, {name}; each line is asked by itself; Ctrl-D ends"), style="dim")
        for answer in answers(recipe, model, temperature, _lines(interactive)):
            cut = " (cut off)" if answer.finish == "length" and interactive else ""
            console.print(Text.assemble(escape_unprintable(answer.text.strip()), (cut, "dim")), soft_wrap=True)


def answers(recipe: Recipe, model: Model, temperature: float, lines: Iterator[str]) -> Iterator[Completion]:
    """The model's answer to each line. Temperature 0 is greedy; line n draws its noise from the run's seed and n."""
    chat = load_chat_template(recipe.chat, recipe.model)
    settings = recipe.response.sampling
    sampling = Sampling(**settings.model_dump() | {"temperature": temperature, "stop": (chat.end, *settings.stop)})
    with closing(open_engine(recipe, model)) as engine:
        for n, line in enumerate(lines):
            yield from engine.generate([chat.prompt(line)], sampling, derive_seed(recipe.seed, "chat", n))


def _lines(interactive: bool) -> Iterator[str]:
    """The lines of standard input that say something, without the white space around them."""
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  input() then edits lines and remembers them
    else:
        with contextlib.suppress(AttributeError):
            sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    with contextlib.suppress(EOFError):
        while True:
            line = input("> ") if interactive else _read()
            if line.strip():
                yield line.strip()


def _read() -> str:
    if line := sys.stdin.readline():
        return line
    raise EOFError
