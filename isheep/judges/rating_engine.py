"""A judge at an endpoint as an engine, so that the stage of ratings asks it as it asks a model of the run."""

from collections.abc import Sequence
from typing import Any

from isheep.errors import UserError
from isheep.judges.base import Messages
from isheep.judges.endpoint import JUDGE_LOG, EndpointJudge, ReplyLog, cost_line, estimate_line, request_bodies
from isheep.models.prompt_text import without_literal
from isheep.openai_client import SEED_LIMIT, ServerReply
from isheep.records import Completion, Sampling, TokenLogprobs
from isheep.rundir.folder import RunFolder


class EndpointEngine:
    """An `isheep.engines.Engine` that asks a judge at an endpoint, each prompt as a conversation of its own.

    Answers are kept in the run's judge.jsonl as they arrive: a call that failed, or a killed run, loses none of them,
    and the same request is not paid again.
    """

    # One call of `generate` sends several requests at a time (machine.judging.max_in_flight).
    max_in_flight = 1

    def __init__(self, judge: EndpointJudge, folder: RunFolder) -> None:
        self.judge, self.folder = judge, folder
        self.model = judge.name_or("")
        self.replies: list[ServerReply] = []

    def announce(self, prompts: Sequence[str], sampling: Sampling) -> None:
        """Tell the user how many requests a stage has, and their cost."""
        bodies = request_bodies(self.model, conversations(prompts), {"max_tokens": sampling.max_tokens})
        self.folder.notify(estimate_line(self.model, len(bodies), list(bodies.values()), self.judge.settings.price))

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        """Return the judge's answers, cut at the first stop string. Raises UserError if a request is not answered."""
        parameters: dict[str, Any] = sampling.model_dump(include={"temperature", "top_p", "max_tokens"})
        if sampling.presence_penalty:
            parameters["presence_penalty"] = sampling.presence_penalty
        # Another seed is another request, so that a second rating of a pair is not the first one from the log.
        parameters["seed"] = seed % SEED_LIMIT
        log = ReplyLog(self.folder.root / JUDGE_LOG)
        replies = self.judge.replies_to(conversations(prompts), parameters, log)
        errors = [reply.error for reply in replies if reply.error]
        if errors:
            raise UserError(
                f"{len(errors)} of {len(replies)} calls to the judge {self.model!r} failed ({errors[0]}); the other "
                f"answers are kept in {JUDGE_LOG}: run the same command to continue"
            )
        self.replies += replies
        return [_completion(reply, sampling) for reply in replies]

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        """Raise UserError: an endpoint gives no log-probabilities of a given text."""
        raise self._unable("log-probabilities of a given text")

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        """Raise UserError: not every endpoint gives the probabilities of options."""
        raise self._unable("probabilities of options")

    def embed(self, texts: Sequence[str]) -> Any:
        """Raise UserError: an endpoint gives no hidden states."""
        raise self._unable("embeddings")

    def close(self) -> None:
        """Tell the user what the requests since the last call cost."""
        if self.replies:
            self.folder.notify(cost_line(self.model, self.replies, self.judge.settings.price))
            self.replies = []

    def _unable(self, result: str) -> UserError:
        return UserError(f"judge {self.model!r} at an endpoint gives no {result}")


def conversations(prompts: Sequence[str]) -> list[Messages]:
    """Return each prompt as a conversation of a single turn, without control tokens that it spells."""
    return [[{"role": "user", "content": without_literal(prompt)}] for prompt in prompts]


def _completion(reply: ServerReply, sampling: Sampling) -> Completion:
    """Return the text of an answer up to the first stop string."""
    text = reply.text
    end = min((text.index(stop) for stop in sampling.stop if stop and stop in text), default=len(text))
    finish = (reply.choice or {}).get("finish_reason")
    return Completion(text[:end], reply.written or 0, "length" if finish == "length" else "stop")
