"""MMLU (Hendrycks et al. 2020) by lm-eval's task."""

from isheep.benchmarks.support.lm_eval_tasks import StandardTask
from isheep.benchmarks.support.sources import MMLU

TASK = StandardTask("standard/mmlu", MMLU, folder="mmlu/default", task="mmlu", by_subject=True)
BENCHMARK = TASK.benchmark()
