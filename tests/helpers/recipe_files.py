"""Recipe files for tests."""

from pathlib import Path

# {model} stands for the path of a checkpoint.
TINY_RECIPE = """
model: {model}
iterations: 1
synthesis:  {{tasks: 4, examples: 1, rules: false, novelty: null, batch_size: 4,
             sampling: {{max_tokens: 64, stop: [e]}}}}
response:   {{batch_size: 2, sampling: {{max_tokens: 8}}}}
assessment: {{batch_size: 2, sampling: {{max_tokens: 4}}}}
filters:    []
training:   {{epochs: 1, batch_size: 2, cutoff: 128, warmup_steps: 0, learning_rate: 0.05}}
machine:    {{threads: 1, device: cpu}}
"""


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path
