"""lamb: a tiny base model on a corpus that we generate, a laboratory animal for the whole loop."""

from pathlib import Path

FOLDER = Path(__file__).parent
SEEDS = FOLDER / "seed_tasks.jsonl"
