"""isheep show: print the pairs of an iteration."""

from enum import StrEnum
from typing import Annotated

import typer

from isheep.cli.options import Json, RunDir
from isheep.cli.output import print_json, print_paged, print_parts


class Band(StrEnum):
    """A side of a score threshold, or a rating that cannot be parsed."""

    low = "low"
    high = "high"
    unreadable = "unreadable"


def show(
    run_dir: RunDir,
    iteration: Annotated[int, typer.Argument(metavar="ITERATION", help="Iteration, 1 or more.", show_default=False)],
    quality: Annotated[
        Band | None, typer.Option(help="Only pairs whose quality rating is on this side of the threshold.")
    ] = None,
    following: Annotated[Band | None, typer.Option(help="The same for the rating of instruction following.")] = None,
    at: Annotated[
        float | None, typer.Option(help="Score threshold between low and high (default: the recipe's).")
    ] = None,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Only what was dropped or rejected, with the reason.")
    ] = False,
    page: Annotated[int, typer.Option(min=1, help="Number of the page.")] = 1,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows on a page.")] = 10,
    pager: Annotated[
        bool, typer.Option("--pager/--no-pager", help="On a terminal, show a long page in $PAGER (default: less -R).")
    ] = True,
    as_json: Json = False,
) -> None:
    """Print an iteration's pairs with their ratings.

    --quality and --following together select a quadrant of the paper's Table 6.
    """
    from isheep.cli import pair_cards

    selection = pair_cards.Selection({"quality": quality, "following": following}, at, dropped)
    selected = pair_cards.select_rows(run_dir, iteration, selection)
    if as_json:
        return print_json(pair_cards.page_values(selected, pair_cards.Page(page, rows)))
    texts = pair_cards.page_texts(selected, selection, pair_cards.Page(page, rows))
    print_paged(texts) if pager else print_parts(texts)
