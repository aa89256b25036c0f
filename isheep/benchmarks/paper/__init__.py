"""The standard benchmarks by the paper's protocol, OpenCompass's prompts and scoring rules: a module each."""
