"""The seconds of each stage of a run, from the events in run.jsonl."""

from typing import Any, NamedTuple

from isheep.rundir.artifacts import stage_of
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import read_events


class StageSeconds(NamedTuple):
    """Seconds by (folder, stage), such as ("iter-1", "answers"), and the stages that were interrupted."""

    seconds: dict[tuple[str, str], float]
    resumed: set[tuple[str, str]]


def stage_seconds(run: RunFolder) -> StageSeconds:
    """Return the seconds of each stage, from run.jsonl. For a file made twice, the later event counts.

    The seconds of a benchmark's answers are part of those of its result, unless an earlier try made the answers. What
    an earlier process made is told by the order of the events, because the clock may have been set in between.
    """
    events, tries = dict[str, dict[str, Any]](), dict[str, int]()
    num_starts = 0
    for event in read_events(run.root):
        num_starts += "started" in event
        if "file" in event and "seconds" in event:
            events[str(event["file"])], tries[str(event["file"])] = event, num_starts
    timing = StageSeconds({}, set())
    for name, event in events.items():
        folder, _, file = name.partition("/")
        key = (folder, stage_of(file))
        result_name = f"{name.rpartition('/')[0]}.json"
        result = events.get(result_name)
        if (
            result is None
            or tries[name] != tries[result_name]
            or event.get("time", 0) < result.get("time", 0) - result["seconds"]
        ):
            timing.seconds[key] = timing.seconds.get(key, 0.0) + float(event["seconds"])
        if event.get("made", 0) < event.get("rows", 0):
            timing.resumed.add(key)
    return timing
