"""A run of lamb in seconds whose pairs are rated, and a fake judge with given probabilities."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from isheep.cli import main
from isheep.engines.function import SeededFunctionEngine
from isheep.records import Completion, Sampling

# A run of lamb in seconds. No rating passes or fails a filter, so that the run always has rows to train on.
SMALL = [
    *("lamb", "iterations=1", "evaluation=[]", "synthesis.tasks=8", "synthesis.batch_size=8", "response.batch_size=4"),
    *("assessment.batch_size=4", "assessment.sampling.max_tokens=8", "filters=[]"),
    *("training.batch_size=4", "training.max_steps=2", "training.eval_every=1"),
]


class ScoringEngine(SeededFunctionEngine):
    """A fake engine: every prompt has the same probabilities of the scores, and each text is `text`."""

    def __init__(self, probabilities: Sequence[float], text: str = "no score") -> None:
        super().__init__(lambda prompt, seed: text)
        self.probabilities = list(probabilities)
        self.prompts: list[str] = []

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        self.prompts += prompts
        return super().generate(prompts, sampling, seed)

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        return [self.probabilities for _ in prompts]


def run(*words: Any) -> int:
    """Run the command line, and return the exit status."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    return int(end.value.code or 0)


def grades_in(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "iter-1" / "assessed.jsonl").read_text().splitlines()]
    return [grade for row in rows for grade in row["grades"].values()]


def unfinish(folder: Path, num_bytes: int) -> None:
    """Leave a run as a kill during its ratings does, with the first bytes of their file."""
    file = folder / "iter-1" / "assessed.jsonl"
    content = file.read_bytes()
    file.with_name("assessed.jsonl.part").write_bytes(content[:num_bytes])
    file.unlink()
    for name in ("dropped.jsonl", "train.json"):
        (folder / "iter-1" / name).unlink()
    shutil.rmtree(folder / "iter-1" / "adapter")
