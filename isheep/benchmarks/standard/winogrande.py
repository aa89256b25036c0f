"""WinoGrande (Sakaguchi et al. 2019) by lm-eval's task."""

from isheep.benchmarks.support.lm_eval_tasks import StandardTask
from isheep.benchmarks.support.sources import WINOGRANDE

TASK = StandardTask("standard/winogrande", WINOGRANDE, folder="winogrande", task="winogrande")
BENCHMARK = TASK.benchmark()
