"""The models and seed tasks that isheep includes, by the names that a recipe gives to them."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]

PACKAGED_MODELS = {"lamb": PACKAGE / "lamb" / "base"}
"""Folders of checkpoints."""

PACKAGED_SEEDS = {
    "isheep": PACKAGE / "seeds" / "seed_tasks.jsonl",
    "isheep-es": PACKAGE / "seeds" / "seed_tasks_es.jsonl",
    "isheep-zh": PACKAGE / "seeds" / "seed_tasks_zh.jsonl",
    "lamb": PACKAGE / "lamb" / "seed_tasks.jsonl",
}
"""Files of seed tasks."""

SYNTHESIS_PROMPTS = {
    "en": "synthesis",
    "es": "synthesis/es",
    "zh": "synthesis/zh",
    "ar": "synthesis/ar",
    "hi": "synthesis/hi",
    "de": "synthesis/de",
}
"""The packaged synthesis prompt of each language."""
