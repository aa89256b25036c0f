"""A fake engine that records its calls."""

from collections.abc import Sequence

from isheep.engines.function import SeededFunctionEngine
from isheep.records import Completion, Sampling


class RecordingEngine(SeededFunctionEngine):
    """A fake engine that remembers its calls."""

    def __init__(self) -> None:
        super().__init__(lambda prompt, seed: f" seed {seed} <|end|> 5||more")
        self.calls: list[tuple[list[str], Sampling, int]] = []

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        self.calls.append((list(prompts), sampling, seed))
        return super().generate(prompts, sampling, seed)
