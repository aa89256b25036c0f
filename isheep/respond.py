"""Answers (Algorithm 1, lines 4 and 5): tasks -> pairs."""

from collections.abc import Iterator, Sequence

from isheep import prompts
from isheep.batching import seed_of
from isheep.chat import Chat
from isheep.engines import Engine
from isheep.recipe import Response
from isheep.records import Pair, Task
from isheep.run import Batches


def render(task: Task, chat: Chat, settings: Response) -> str:
    """The text that the model continues with its answer."""
    if settings.prompt == "plain":
        return prompts.fill(prompts.load("response")["plain"], instruction=task.content)
    return chat.prompt(task.content)


def respond(
    engine: Engine, tasks: Sequence[Task], chat: Chat, settings: Response, iteration: int, seed: int
) -> Batches[Pair]:
    """The pairs that are still owed, in batches of `settings.size`; each batch is seeded by its place.

    A pair keeps its task's id. Its output is the answer without white space around it; it ends at the template's end
    token (a tuned model writes it after a plain prompt too), or at one of `settings.sampling.stop`.
    """
    sampling = settings.sampling.model_copy(update={"stop": (chat.end, *settings.sampling.stop)})

    def batches(done: list[Pair]) -> Iterator[list[Pair]]:
        for start in range(len(done), len(tasks), settings.size):
            batch = tasks[start : start + settings.size]
            place = seed_of(seed, iteration, "response", start // settings.size)
            answers = engine.generate([render(task, chat, settings) for task in batch], sampling, place)
            yield [
                Pair(
                    **task.model_dump(),
                    output=answer.text.strip(),
                    finish=answer.finish,
                    tokens=answer.tokens,
                    seed=place,
                )
                for task, answer in zip(batch, answers, strict=True)
            ]

    return batches
