"""AlpacaEval 2 (Dubois et al. 2024): GPT-4 Turbo is reference and judge, its preference weighted by its certainty."""

from isheep.benchmarks.alpaca_eval import TWO, make_benchmark

BENCHMARK = make_benchmark("alpaca_eval_2", TWO)
