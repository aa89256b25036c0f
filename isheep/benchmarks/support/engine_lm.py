"""Our engine as lm-eval sees a model. Importing this module imports lm-eval."""

from collections.abc import Sequence

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from isheep.benchmarks.support.context import EvalContext
from isheep.benchmarks.support.options import logprobs, score_items
from isheep.models.prompt_text import unmark
from isheep.records import Sampling

# Requests whose losses are computed in one call.
BATCH_SIZE = 64
# Of an answer, lm-eval's own limit.
MAX_TOKENS = 256
# Log-probability of a continuation that does not fit; its item counts as wrong whatever happens.
DOES_NOT_FIT = -1e9


class EngineLM(LM):  # type: ignore[misc]
    """The model of an evaluation context. `too_long` has the (task, doc_id) of the items that did not fit."""

    # A key of lm-eval's cache of requests, which is not used.
    tokenizer_name = ""

    def __init__(self, context: EvalContext) -> None:
        super().__init__()
        self.context = context
        self.too_long: set[tuple[str, int]] = set()

    @property
    def uses_template(self) -> bool:
        """Whether prompts are in the model's chat template."""
        return not self.context.is_base

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation; no task here reads whether it is the greedy one."""
        pairs = [move_space(*request.args) for request in requests]
        rows = score_items(self.context, pairs, self._negative_logprobs, BATCH_SIZE)
        for request, row in zip(requests, rows, strict=True):
            if row.lowest is None:
                self.too_long.add((request.task_name, request.doc_id))
        return [(DOES_NOT_FIT if value is None else -value, False) for row in rows for value in row.values]

    def _negative_logprobs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float | None, ...]]:
        prompts = [self._read(prompt) for prompt, _ in pairs]
        outputs = [self.context.plain(output) for _, output in pairs]
        results = logprobs(self.context.engine, prompts, outputs)
        return [(None if result is None else -sum(result.logprobs),) for result in results]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the greedy answers to prompts."""
        stop = tuple(requests[0].args[1]["until"])
        if not self.context.is_base:
            stop = (*stop, self.context.chat.end)
        sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=MAX_TOKENS, stop=stop)
        prompts = [self._read(request.args[0]) for request in requests]
        return [answer.output for answer in self.context.answers(prompts, sampling)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Raise NotImplementedError, because no task here needs it."""
        raise NotImplementedError("no task here asks for it")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation in the model's chat template, with marks that `_read` understands."""
        turns = [(turn["role"], turn["content"]) for turn in chat_history]
        return self.context.chat.marked_conversation(turns, add_generation_prompt)

    def _read(self, text: str) -> str:
        """Return a text of lm-eval as the model reads it: an aligned model's is in its chat template."""
        return self.context.plain(text) if self.context.is_base else unmark(text)


class RecordedLM(LM):  # type: ignore[misc]
    """Answers that another program wrote, by the index of their item, as a model."""

    tokenizer_name = ""
    uses_template = False

    def __init__(self, answers: Sequence[str]) -> None:
        super().__init__()
        self.answers = answers

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the answer to the item of each request."""
        return [self.answers[request.doc_id] for request in requests]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Raise NotImplementedError: a file of answers has no probabilities."""
        raise NotImplementedError("a file of answers has no probabilities")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Raise NotImplementedError: a file of answers has no probabilities."""
        raise NotImplementedError("a file of answers has no probabilities")


def move_space(context: str, continuation: str) -> tuple[str, str]:
    """Move white space from the end of a context to the continuation, whose first token has it in lm-eval's models."""
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation
