"""HellaSwag (Zellers et al. 2019) by lm-eval's task."""

from isheep.benchmarks.support.lm_eval_tasks import StandardTask
from isheep.benchmarks.support.sources import HELLASWAG

TASK = StandardTask("standard/hellaswag", HELLASWAG, folder="hellaswag", task="hellaswag")
BENCHMARK = TASK.benchmark()
