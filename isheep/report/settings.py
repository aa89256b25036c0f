"""The settings of a comparison: runs that differ in their random seed alone belong to one setting."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import NamedTuple

from isheep.evaluation.statistics import Estimate, estimate_over_seeds
from isheep.report.run_data import RunData
from isheep.rundir.seed_sweep import SWEEP_FILE

# The keys of a recipe that runs of one setting may differ in.
FREE_KEYS = {"seed", "machine", "date"}


@dataclass(frozen=True)
class Setting:
    """A row group of a table, or a point of a figure: a name and its runs, which differ in their random seed alone."""

    name: str
    runs: tuple[RunData, ...]

    @property
    def has_seeds(self) -> bool:
        """Whether there are several random seeds, so that runs can be compared over them."""
        return len(self.runs) > 1


def group_settings(runs: Sequence[RunData]) -> list[Setting]:
    """Return the settings of some runs, in the order of their first runs.

    The runs of a setting of a sweep with random seeds belong together: their recipes may differ in what depends on
    another run, such as the steps of `training.steps_of`. Any other run with the recipe and the seed of an earlier one
    is a setting of its own.
    """
    groups: dict[str, list[list[RunData]]] = {}
    for run in runs:
        key = _setting_key(run)
        candidates = groups.setdefault(key, [])
        seed = run.recipe.seed
        group = next((group for group in candidates if all(member.recipe.seed != seed for member in group)), None)
        if group is None:
            candidates.append([run])
        else:
            group.append(run)
    members = [group for candidates in groups.values() for group in candidates]
    members.sort(key=lambda group: runs.index(group[0]))
    return [Setting(name, tuple(group)) for name, group in zip(_unique_names(members), members, strict=True)]


def _setting_key(run: RunData) -> str:
    """Return what runs of one setting have in common: a folder of a sweep with random seeds, or their recipe."""
    folder = run.path.resolve().parent
    if run.path.name == f"seed-{run.recipe.seed}" and (folder.parent / SWEEP_FILE).exists():
        return str(folder)
    return json.dumps(run.recipe.model_dump(mode="json", exclude=FREE_KEYS), sort_keys=True)


def _unique_names(groups: Sequence[Sequence[RunData]]) -> list[str]:
    """Return a name for each group: that of its run folders without the seed; with the parent if names repeat."""
    names = [_group_name(group) for group in groups]
    if len({*names}) < len(names):
        names = [f"{group[0].path.resolve().parent.name}/{name}" for group, name in zip(groups, names, strict=True)]
    numbered = []
    for index, name in enumerate(names):
        earlier = names[:index].count(name)
        numbered.append(f"{name} ({earlier + 1})" if earlier else name)
    return numbered


def _group_name(group: Sequence[RunData]) -> str:
    parent = group[0].path.resolve().parent.name
    if len(group) == 1:
        return group[0].name
    names = {re.sub(r"(^|,)seed=\d+", "", run.name).lstrip(",") for run in group}
    return names.pop() or parent if len(names) == 1 else parent


class Spread(NamedTuple):
    """A number over the seeds of a setting: an estimate, the standard deviation over seeds, and how many there are.

    With one seed the interval is the number's own, over the items, and the standard deviation is None.
    """

    estimate: Estimate
    deviation: float | None
    num_seeds: int


def spread_over_seeds(estimates: Sequence[Estimate], is_share: bool) -> Spread:
    """Return the mean of a number over seeds with Student's 95% interval, or the one estimate with its own interval.

    The interval of a share is cut at 0 and 1, which Student's t does not know.
    """
    if len(estimates) == 1:
        return Spread(estimates[0], None, 1)
    values = [result.value for result in estimates]
    return Spread(estimate_over_seeds(values, is_share), stdev(values), len(values))
