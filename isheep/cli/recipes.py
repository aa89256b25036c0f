"""isheep recipes: list the recipes and sweeps that come with the package."""

from isheep.cli.output import print_parts


def recipes() -> None:
    """List the recipes and sweeps that come with isheep."""
    from rich.table import Table

    from isheep.recipe import loading

    names = loading.recipe_names()
    sweeps = {name for name in names if loading.is_sweep(loading.find_recipe(name))}
    for verb, group in (("run", [name for name in names if name not in sweeps]), ("sweep", sorted(sweeps))):
        table = Table(f"isheep {verb}", "", box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.columns[0].no_wrap, table.columns[0].min_width = True, max(map(len, names))
        for name in group:
            table.add_row(name, loading.recipe_title(loading.find_recipe(name)))
        print_parts([table])
