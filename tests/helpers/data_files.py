"""The folder of public data files that some tests read; they are skipped if it does not exist."""

import os
from pathlib import Path

DATA = Path(os.environ.get("ISHEEP_DATA", Path(__file__).parents[3] / "shared" / "data"))
SEED_TASKS = DATA / "self_instruct" / "seed_tasks.jsonl"
MT_BENCH = DATA / "mt_bench"
