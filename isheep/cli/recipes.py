"""isheep recipes: list the recipes and sweeps that come with the package."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from isheep.cli.options import Json
from isheep.cli.output import print_json, print_line, print_parts
from isheep.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 78
START, MODELS, PAPER, CONTROLS, LAMB, SWEEPS = "start here", "models", "paper", "controls", "lamb", "sweeps"


class Entry(NamedTuple):
    """A packaged recipe or sweep: its name, the group that it is listed in, and what its file says about it."""

    name: str
    group: str
    title: str

    @property
    def verb(self) -> str:
        """The command that takes its name: run or sweep."""
        return "sweep" if self.group == SWEEPS else "run"

    def matches(self, word: str) -> bool:
        """Return whether the name or the title holds the word, in upper or lower case."""
        return word.casefold() in f"{self.name} {self.title}".casefold()


def recipes(
    word: Annotated[
        str | None, typer.Argument(metavar="WORD", help="Word in the name or the title.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the recipes and sweeps that come with isheep.

    With WORD, lists those that have it in their name or title, with the title, such as: isheep recipes density
    """
    entries = [entry for entry in list_entries() if entry.matches(word or "")]
    if as_json:
        return print_json([{**entry._asdict(), "command": f"isheep {entry.verb} {entry.name}"} for entry in entries])
    if not entries:
        raise UserError(f"no recipe has {word!r} in its name or title: isheep recipes lists all")
    if word:
        print_parts(_tables(entries))
    else:
        for line in short_list(entries):
            print_line(line)


def list_entries() -> list[Entry]:
    """Return the packaged recipes and sweeps, group by group."""
    from isheep.recipe import loading

    entries = []
    for name in loading.recipe_names():
        path = loading.find_recipe(name)
        title = loading.recipe_title(path)
        entries.append(Entry(name, _group_of(name, title, loading.is_sweep(path)), title))
    groups = (START, MODELS, PAPER, CONTROLS, LAMB, SWEEPS)
    return sorted(entries, key=lambda entry: groups.index(entry.group))


def _group_of(name: str, title: str, is_sweep: bool) -> str:
    folder = name.rpartition("/")[0]
    if is_sweep:
        return SWEEPS
    if not folder:
        return START
    if folder == "lamb":
        return LAMB
    if "I-SHEEP on" in title:
        return MODELS
    return CONTROLS if title.startswith(("Control", "Ours")) else PAPER


def short_list(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield the lines of a list that fits on a screen: titles to start with, and the names of all others."""
    names = {group: [entry.name for entry in entries if entry.group == group] for group in (LAMB, SWEEPS)}
    stems = {entry.name.partition("/")[2] for entry in entries if entry.group in (PAPER, CONTROLS)}
    only_lamb = [name for name in names[LAMB] if name.partition("/")[2] not in stems]
    yield "START HERE: isheep run NAME"
    for entry in entries:
        if entry.group == START:
            yield from _wrap(f"{entry.name:<14} {entry.title}", indent=17)
    for group, heading in (
        (MODELS, "MODELS OF THE PAPER: isheep run paper/NAME"),
        (PAPER, "SETTINGS OF THE PAPER: isheep run paper/NAME"),
        (CONTROLS, "CONTROLS, which the paper lacks: isheep run paper/NAME"),
    ):
        yield heading
        yield from _wrap("  ".join(entry.name.partition("/")[2] for entry in entries if entry.group == group))
    yield "LAMB: isheep run lamb/NAME, the same on the packaged base model, in minutes"
    yield from _wrap(f"each NAME above, except the models; and {'  '.join(only_lamb)}")
    yield "SWEEPS: isheep sweep paper/NAME or isheep sweep lamb/NAME"
    yield from _wrap("  ".join(sorted({name.partition("/")[2] for name in names[SWEEPS]})))
    yield "isheep recipes WORD lists those with a word in name or title, with their titles"


def _wrap(text: str, indent: int = 2) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent="  ",
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _tables(entries: Sequence[Entry]) -> Iterator[Table]:
    """Yield a table of the recipes and one of the sweeps, each with the command that runs them."""
    from rich.table import Table

    for verb in ("run", "sweep"):
        table = Table(f"isheep {verb}", "", box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.columns[0].no_wrap, table.columns[0].min_width = True, max(len(entry.name) for entry in entries)
        for entry in entries:
            if entry.verb == verb:
                table.add_row(entry.name, entry.title)
        if table.row_count:
            yield table
