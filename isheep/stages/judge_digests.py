"""The judges on this machine that a run has, with digests of their files (judges.json).

A judge is named by a run folder or a checkpoint, whose content may change while a run is unfinished. A run goes on only
with the judges that it began with, so that one model rates all of its pairs.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from isheep.backends import local_model
from isheep.errors import UserError
from isheep.models.checkpoint import checkpoint_digest
from isheep.recipe.evaluation import RatingJudge
from isheep.recipe.schema import Recipe
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import fork_advice

JUDGES_FILE = "judges.json"


def local_judges(recipe: Recipe) -> list[str]:
    """Return the names of the judges on this machine: of ratings, in any iteration, and of benchmarks' answers."""
    return list(dict.fromkeys(_local_judges(recipe)))


def _local_judges(recipe: Recipe) -> Iterator[str]:
    for variant in recipe.variants:
        judge = variant.assessment.judge if variant.assessment else None
        if isinstance(judge, RatingJudge) and judge.local:
            yield judge.model
    for benchmark in recipe.evaluation:
        if benchmark.judge and benchmark.judge.local and benchmark.judge.model:
            yield benchmark.judge.model


def judge_digest(name: str) -> str:
    """Return a digest of a judge's checkpoint, adapter and chat template. Raises UserError if there is no such model.

    It reads all weights, which takes about a second for a gigabyte, once in a process.
    """
    model, chat_template = local_model(name)
    return hashlib.sha256(json.dumps([checkpoint_digest(model), chat_template]).encode()).hexdigest()


def saved_judges(run_dir: Path) -> dict[str, str]:
    """Return the digests of the judges that a run began with, by their names in the recipe."""
    path = run_dir / JUDGES_FILE
    try:
        digests = json.loads(path.read_bytes()) if path.exists() else {}
    except (ValueError, RecursionError):
        digests = None
    if not isinstance(digests, dict):
        raise UserError(f"{path} is damaged: it must hold the digests of judges by their names; put it back")
    return digests


def check_same_judges(run_dir: Path, recipe: Recipe) -> None:
    """Raise UserError if a judge of the recipe is missing, or is another model than when the run began."""
    saved = saved_judges(run_dir)
    for name in local_judges(recipe):
        if saved.get(name, digest := judge_digest(name)) != digest:
            raise UserError(
                f"judge {name} is another model than when run {run_dir} began ({JUDGES_FILE} in it): put it back, so "
                f"that one judge rates all pairs; {fork_advice(run_dir, [])}"
            )


def save_judges(run: RunFolder, recipe: Recipe) -> None:
    """Write the digests of the judges that the run has from now on. An older run has none at first."""
    saved = saved_judges(run.path)
    missing = {name: judge_digest(name) for name in local_judges(recipe) if name not in saved}
    if missing:
        run.write_json(JUDGES_FILE, {**saved, **missing})
