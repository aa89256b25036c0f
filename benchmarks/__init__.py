"""Measure speed: one script per question. Run `python -m benchmarks.NAME --help` in the repository's root."""
