"""CommonsenseQA (Talmor et al. 2019) by lm-eval's task."""

from isheep.benchmarks.support.lm_eval_tasks import StandardTask
from isheep.benchmarks.support.sources import COMMONSENSE_QA

TASK = StandardTask("standard/commonsense_qa", COMMONSENSE_QA, folder="commonsense_qa", task="commonsense_qa")
BENCHMARK = TASK.benchmark()
