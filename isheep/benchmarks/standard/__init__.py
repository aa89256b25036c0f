"""The standard benchmarks by the standard protocol, lm-eval's task files and metrics: a module each."""
