"""TriviaQA (Joshi et al. 2017) by lm-eval's task."""

from isheep.benchmarks.support.lm_eval_tasks import StandardTask
from isheep.benchmarks.support.sources import TRIVIAQA

TASK = StandardTask("standard/triviaqa", TRIVIAQA, folder="triviaqa", task="triviaqa", needs_logprobs=False)
BENCHMARK = TASK.benchmark()
