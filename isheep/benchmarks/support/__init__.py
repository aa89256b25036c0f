"""Code that several benchmarks share: the types, the evaluation context, data files, prompts and scoring rules."""
