"""SIQA (Sap et al. 2019) by lm-eval's task."""

from isheep.benchmarks.support.lm_eval_tasks import StandardTask
from isheep.benchmarks.support.sources import SIQA

TASK = StandardTask("standard/siqa", SIQA, folder="siqa", task="social_iqa")
BENCHMARK = TASK.benchmark()
