"""The Python API: what a notebook or a script calls (through `import isheep`), and what the command line is made of."""

from isheep.api.recipes import CHECKS, Overrides, load_recipe, load_sweep

__all__ = ["CHECKS", "Overrides", "load_recipe", "load_sweep"]
