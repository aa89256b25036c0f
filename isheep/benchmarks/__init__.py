"""Benchmarks: each a module with `run(engine, chat, seed) -> dict`, whose "items" hold one truth value per item."""
