"""GPQA diamond (Rein et al. 2023) by lm-eval's task."""

from isheep.benchmarks.support.lm_eval_tasks import StandardTask
from isheep.benchmarks.support.sources import GPQA_DIAMOND

TASK = StandardTask("standard/gpqa_diamond", GPQA_DIAMOND, folder="gpqa/zeroshot", task="gpqa_diamond_zeroshot")
BENCHMARK = TASK.benchmark()
