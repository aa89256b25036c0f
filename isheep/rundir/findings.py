"""Findings: signs of degenerate learning. Each is said once and kept in run.jsonl; `stop.on` ends a run by them."""

from typing import Literal, NamedTuple

from isheep.errors import UserError
from isheep.recipe.evaluation import FindingName
from isheep.recipe.schema import Recipe
from isheep.rundir.events import read_events
from isheep.rundir.folder import RunFolder
from isheep.rundir.progress import console
from isheep.rundir.run import fork_advice


class Finding(NamedTuple):
    """A sign that an iteration learns nothing, or harm: its name in `stop.on`, the figure, and what helps.

    "blind_judge" rests on right answers that the loop must not know, so `stop.on` can't name it. `is_final`: the run
    can't go on, whatever the recipe says.
    """

    name: FindingName | Literal["blind_judge"]
    iteration: int
    figure: str
    advice: str
    is_final: bool = False

    def __str__(self) -> str:
        return f"iteration {self.iteration}: {self.figure}; {self.advice}"


def report_findings(run: RunFolder, recipe: Recipe, *findings: Finding | None) -> None:
    """Say each finding that is new, as a line and as an event of the run. None stands for no finding.

    Raises UserError at the first one that the recipe's `stop.on` names, or that is final. It follows from the files of
    the run alone, so that a stopped run stops again at the same point, without making anything.
    """
    for finding in findings:
        if finding is None:
            continue
        is_new = (finding.iteration, finding.name) not in read_findings(run)
        if is_new:
            run.event(note=str(finding), finding=finding.name, iteration=finding.iteration)
        if finding.is_final:
            raise UserError(str(finding))
        if is_stopping(recipe, finding.name):
            way_on = fork_advice(run.root, [_without(recipe, finding.name)])
            raise UserError(f"{finding} (stopped by stop.on: {finding.name}; {way_on})")
        if is_new:
            console.print(str(finding), markup=False, soft_wrap=True)


def is_stopping(recipe: Recipe, name: str) -> bool:
    """Return whether a finding of this name stops a run of the recipe."""
    return recipe.stop is not None and name in recipe.stop.on


def _without(recipe: Recipe, name: str) -> str:
    """Return the setting by which a recipe no longer stops by a finding: "stop.on=[bad_loss]"."""
    assert recipe.stop
    remaining = [other_name for other_name in recipe.stop.on if other_name != name]
    return f"stop.on=[{', '.join(remaining)}]" if remaining or recipe.stop.benchmark else "stop=null"


def read_findings(run: RunFolder) -> dict[tuple[int, str], str]:
    """Return the findings of a run, in words, by iteration and name. A redo removes those of the iterations it makes
    again."""
    findings: dict[tuple[int, str], str] = {}
    for event in read_events(run.root):
        iteration, first_redone = event.get("iteration"), event.get("redone_from")
        if isinstance(first_redone, int):
            findings = {key: text for key, text in findings.items() if key[0] < first_redone}
        elif isinstance(iteration, int) and isinstance(event.get("finding"), str):
            findings[iteration, event["finding"]] = str(event.get("note"))
    return findings


def find_stop(recipe: Recipe, run: RunFolder) -> str | None:
    """Return the name of the finding that stopped a run; None if none did."""
    return next((name for _, name in read_findings(run) if is_stopping(recipe, name)), None)
