"""The models and seed tasks that isheep includes, by the names that a recipe gives to them."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]

PACKAGED_MODELS = {"lamb": PACKAGE / "lamb" / "base"}
"""Folders of checkpoints."""

PACKAGED_SEEDS = {
    "isheep": PACKAGE / "seeds" / "seed_tasks.jsonl",
    "lamb": PACKAGE / "lamb" / "seed_tasks.jsonl",
}
"""Files of seed tasks."""
