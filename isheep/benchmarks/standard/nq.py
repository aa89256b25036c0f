"""NQ (Lee et al. 2019) by lm-eval's task."""

from isheep.benchmarks.support.lm_eval_tasks import StandardTask
from isheep.benchmarks.support.sources import NQ

TASK = StandardTask("standard/nq", NQ, folder="nq_open", task="nq_open", needs_logprobs=False)
BENCHMARK = TASK.benchmark()
