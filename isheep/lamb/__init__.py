"""lamb: a tiny base model on a generated corpus, small enough to run the whole loop in minutes on a CPU."""

from pathlib import Path

FOLDER = Path(__file__).parent
CHECKPOINT = FOLDER / "base"
SEEDS = FOLDER / "seed_tasks.jsonl"
