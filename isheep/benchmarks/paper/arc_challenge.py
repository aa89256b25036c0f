"""ARC-c (Clark et al. 2018) as OpenCompass scores it."""

from isheep.benchmarks.support.opencompass import PaperTask, load_template, prepare_arc
from isheep.benchmarks.support.sources import ARC_CHALLENGE

TASK = PaperTask(
    name="paper/arc_challenge",
    source=ARC_CHALLENGE,
    prepare=prepare_arc,
    template=load_template("arc_challenge"),
)
BENCHMARK = TASK.benchmark()
