"""MBPP's sanitized part: 257 tasks of the test split with a task and tests that people checked, in another format."""

from isheep.benchmarks.mbpp import make_benchmark

BENCHMARK = make_benchmark("mbpp_sanitized", "sanitized-mbpp.json of google-research/mbpp", task_column="prompt")
