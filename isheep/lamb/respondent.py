"""A model that answers lamb's tasks and dialogues in its chat template: what its benchmarks and its probe ask."""

from collections.abc import Sequence
from typing import NamedTuple

from isheep.engines import Engine
from isheep.lamb.pages import task_text
from isheep.lamb.suite import Dialogue
from isheep.lamb.world import Quest
from isheep.models.chat_template import ChatTemplate
from isheep.records import Completion, Sampling

# Of an answer.
MAX_TOKENS = 64


class Respondent(NamedTuple):
    """A model behind its engine, and the chat template in which it is asked."""

    engine: Engine
    chat: ChatTemplate
    seed: int = 1
    max_tokens: int = MAX_TOKENS

    def answer(self, quests: Sequence[Quest], temperature: float) -> list[Completion]:
        """Return the answer to each quest."""
        return self._complete([self.chat.prompt(task_text(quest)) for quest in quests], temperature)

    def answer_dialogues(self, dialogues: Sequence[Dialogue]) -> list[tuple[Completion, Completion]]:
        """Return the greedy answers to both turns of each dialogue. The second one is given after the first."""
        first_answers = self.answer([dialogue.first for dialogue in dialogues], temperature=0.0)
        conversations = [
            dialogue.conversation(answer.text.strip())
            for dialogue, answer in zip(dialogues, first_answers, strict=True)
        ]
        second_answers = self._complete([self.chat.conversation(turns) for turns in conversations], temperature=0.0)
        return list(zip(first_answers, second_answers, strict=True))

    def _complete(self, prompts: Sequence[str], temperature: float) -> list[Completion]:
        sampling = Sampling(temperature=temperature, top_p=1.0, max_tokens=self.max_tokens, stop=(self.chat.end,))
        return self.engine.generate(prompts, sampling, self.seed)
