"""ARC-c (Clark et al. 2018) by lm-eval's task."""

from isheep.benchmarks.support.lm_eval_tasks import StandardTask
from isheep.benchmarks.support.sources import ARC_CHALLENGE

TASK = StandardTask("standard/arc_challenge", ARC_CHALLENGE, folder="arc", task="arc_challenge")
BENCHMARK = TASK.benchmark()
