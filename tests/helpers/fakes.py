"""A fake chat template."""

from collections.abc import Sequence
from typing import NamedTuple


class FakeChat(NamedTuple):
    """A chat template that marks the turns with words, without a tokenizer. `user` and `assistant` are its marks."""

    name: str = "fake"
    template: str = "fake"
    end: str = "<|end|>"
    special: frozenset[str] = frozenset({"<|end|>"})
    user: str = "<|user|>"
    assistant: str = "<|answer|>"

    def prompt(self, content: str) -> str:
        return self.conversation([("user", content)])

    def conversation(self, turns: Sequence[tuple[str, str]]) -> str:
        texts = (f"{self.user}{text}{self.assistant}" if role == "user" else text + self.end for role, text in turns)
        return "".join(texts)
