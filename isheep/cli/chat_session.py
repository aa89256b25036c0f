"""Answering the lines of standard input with a model of a run, in the chat template that it was trained in."""

import contextlib
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from rich.text import Text

from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.batching import derive_seed
from isheep.cli.output import make_console
from isheep.errors import TooLong
from isheep.evaluation.formatting import escape_unprintable
from isheep.recipe.schema import Recipe
from isheep.records import Completion, Model, Sampling
from isheep.rundir import progress
from isheep.rundir.iterations import find_run_result, model_of_iteration, model_words
from isheep.rundir.run import open_run

NEW = "/new"
"""The line that begins a new conversation."""
COMMANDS = f"{NEW} starts a new conversation; Ctrl-D ends"
COMMAND = re.compile(r"/[A-Za-z?]\w*")
"""A line that is meant as a command, and not for the model."""
FULL = f"the conversation fills the model's context: {NEW} starts a new one"


def chat_with_run(
    run_dir: Path, iteration: int | None, temperature: float, *, backend: Backend = DEFAULT_BACKEND
) -> None:
    """Print an answer to each line of standard input, until it ends or Ctrl-C.

    Shows a prompt on a terminal. The lines are the turns of one conversation; the line /new begins another one.
    """
    recipe, run = open_run(run_dir)
    backend.check_code(recipe)
    result = find_run_result(recipe, run)
    is_chosen = bool(recipe.stop_rule) and iteration is None
    iteration = result.iteration if iteration is None else iteration
    model = model_of_iteration(recipe, run, iteration)
    console, is_terminal = make_console(), sys.stdin.isatty()
    if is_chosen and not is_terminal:
        progress.console.print(f"answers of {result}", markup=False, soft_wrap=True)
    with contextlib.suppress(KeyboardInterrupt):
        if is_terminal:
            name = str(result) if is_chosen else model_words(iteration)
            text = f"{recipe.model}, {name}; {COMMANDS}"
            console.print(Text(text), style="dim")
        for answer in answers(recipe, model, temperature, _lines(is_terminal), backend):
            note = f" ({answer.note})" if answer.note and is_terminal else ""
            console.print(Text.assemble(escape_unprintable(answer.text), (note, "dim")), soft_wrap=True)
            if answer.notice and not is_terminal:
                print(f"isheep: {answer.notice}", file=sys.stderr)


class ChatAnswer(NamedTuple):
    """An answer of the model. `note` says why its text is not whole, `notice` what the user can do about it."""

    text: str
    note: str = ""
    notice: str = ""


def answers(
    recipe: Recipe, model: Model, temperature: float, lines: Iterator[str], backend: Backend = DEFAULT_BACKEND
) -> Iterator[ChatAnswer]:
    """Yield the model's answer to each line, which it reads after the lines and answers before it, up to a line /new.

    Temperature 0 is greedy; above it, the seed of line n is derived from the run's seed and n. A line that leaves no
    room for an answer in the model's context is not part of the conversation, and neither is a command that there is
    not. Raises UserError if a first line leaves no room.
    """
    chat_template = backend.load_chat_template(*recipe.chat_arguments)
    settings = recipe.response.sampling
    stop = (chat_template.end, *settings.stop)
    sampling = Sampling(**settings.model_dump() | {"temperature": temperature, "stop": stop})
    with closing(backend.open_engine(recipe, model)) as engine:
        turns: list[tuple[str, str]] = []
        for n, line in enumerate(lines):
            if line == NEW:
                turns = []
                continue
            if COMMAND.fullmatch(line):
                notice = f"{line} is no command: {COMMANDS}"
                yield ChatAnswer("", notice, notice)
                continue
            prompt = chat_template.conversation([*turns, ("user", line)])
            try:
                [completion] = engine.generate([prompt], sampling, derive_seed(recipe.seed, "chat", n))
            except TooLong:
                if not turns:
                    raise
                yield ChatAnswer("", FULL, FULL)
                continue
            turns += [("user", line), ("assistant", completion.text.strip())]
            yield _chat_answer(completion, sampling.max_tokens)


def _chat_answer(completion: Completion, max_tokens: int) -> ChatAnswer:
    """Return a completion as an answer. A text that is cut off before `max_tokens` met the end of the context."""
    text = completion.text.strip()
    if completion.finish != "length":
        return ChatAnswer(text)
    is_full = completion.tokens < max_tokens
    return ChatAnswer(text, f"cut off: {FULL}" if is_full else "cut off", FULL if is_full else "")


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
