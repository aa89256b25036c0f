"""ARC-e (Clark et al. 2018) by lm-eval's task."""

from isheep.benchmarks.support.lm_eval_tasks import StandardTask
from isheep.benchmarks.support.sources import ARC_EASY

TASK = StandardTask("standard/arc_easy", ARC_EASY, folder="arc", task="arc_easy")
BENCHMARK = TASK.benchmark()
