"""The models and seed tasks that isheep includes, by the names that a recipe gives to them."""

import difflib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

LAMB_SIZES = ("0.4m", "0.6m", "4.9m")
"""The sizes of lambs beside `lamb` itself, which has 1.3 million parameters."""
PACKAGED_MODELS = {
    "lamb": PACKAGE / "lamb" / "base",
    **{f"lamb-{size}": PACKAGE / "lamb" / "sizes" / size for size in LAMB_SIZES},
}
"""Folders of checkpoints, all of them lambs."""

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


def similar_model(name: str) -> str:
    """Return "; did you mean 'lamb'?" if a name is similar to that of a model that isheep includes, else ""."""
    nearest = difflib.get_close_matches(name, PACKAGED_MODELS, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
