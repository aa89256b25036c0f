"""BoolQ (Clark et al. 2019) by lm-eval's task."""

from isheep.benchmarks.support.lm_eval_tasks import StandardTask
from isheep.benchmarks.support.sources import BOOLQ

TASK = StandardTask("standard/boolq", BOOLQ, folder="super_glue/boolq", task="boolq")
BENCHMARK = TASK.benchmark()
