"""A fake chat template."""

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
        return f"{self.user}{content}{self.assistant}"
