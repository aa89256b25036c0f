"""PIQA (Bisk et al. 2019) by lm-eval's task."""

from isheep.benchmarks.support.lm_eval_tasks import StandardTask
from isheep.benchmarks.support.sources import PIQA

TASK = StandardTask("standard/piqa", PIQA, folder="piqa", task="piqa")
BENCHMARK = TASK.benchmark()
