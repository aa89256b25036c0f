"""ARC-e (Clark et al. 2018) as OpenCompass scores it."""

from isheep.benchmarks.support.opencompass import PaperTask, load_template, prepare_arc
from isheep.benchmarks.support.sources import ARC_EASY

TASK = PaperTask(
    name="paper/arc_easy",
    source=ARC_EASY,
    prepare=prepare_arc,
    template=load_template("arc_easy"),
)
BENCHMARK = TASK.benchmark()
