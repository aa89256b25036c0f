"""OpenBookQA with its fact (Mihaylov et al. 2018) by a task file of ours: lm-eval has no task that shows the fact."""

from pathlib import Path

from isheep.benchmarks.support.lm_eval_tasks import StandardTask
from isheep.benchmarks.support.sources import OPENBOOKQA_FACT

# The folder of openbookqa_fact.yaml, which is lm-eval's openbookqa with the fact in front of the question.
TASK = StandardTask("standard/openbookqa_fact", OPENBOOKQA_FACT, folder=Path(__file__).parent, task="openbookqa_fact")
BENCHMARK = TASK.benchmark()
