"""HumanEval+ (Liu et al. 2023): HumanEval's problems with about 80 times its tests, in a file of the same format."""

from isheep.benchmarks.humaneval import make_benchmark

BENCHMARK = make_benchmark("humaneval_plus", "HumanEvalPlus.jsonl.gz of evalplus/humanevalplus_release")
