"""Answers (Algorithm 1, lines 4 and 5): tasks -> pairs."""

from collections.abc import Iterator, Sequence

from isheep import prompts
from isheep.batching import derive_seed, ordered_map
from isheep.engines import Engine
from isheep.errors import UserError
from isheep.models.chat_template import ChatTemplate
from isheep.models.checkpoint import context_length
from isheep.prompts.forms import BUILTIN_FORMS, load_answer_form
from isheep.recipe.schema import Recipe, Response
from isheep.records import Pair, Task
from isheep.rundir.folder import Batches


def render_response_prompt(task: Task, chat: ChatTemplate, settings: Response) -> str:
    """The text that the model continues with its answer, or with its thoughts and then its answer."""
    asked = load_answer_form(settings.prompt)
    text = prompts.fill_template(asked.template, instruction=task.content)
    return chat.prompt(text) if asked.chat else text


def text_before_output(pair: Pair, chat: ChatTemplate, settings: Response) -> str:
    """The text that a pair's output follows: what the model continued, and its thoughts where it wrote any."""
    thoughts = None if pair.unanswered else pair.thoughts
    said = "" if thoughts is None else f" {thoughts}{load_answer_form(settings.prompt).answer}"
    return render_response_prompt(pair, chat, settings) + said


def check_prompt_fits(recipe: Recipe, chat: ChatTemplate) -> None:
    """Raises UserError where a response prompt without any instruction fills all that the recipe's model can read."""
    for settings in (one.response for one in recipe.variants if one.response.prompt not in BUILTIN_FORMS):
        text, room = render_response_prompt(Task(id="", instruction=""), chat, settings), context_length(recipe.model)
        if (asked := len(chat.tokenizer(text).input_ids)) >= room:
            raise UserError(
                f"response.prompt {settings.prompt!r} has {asked} tokens without an instruction, and {recipe.model!r}"
                f" reads {room}: take a shorter one, such as principles, or a model with a longer context"
            )


def respond(
    engine: Engine, tasks: Sequence[Task], chat: ChatTemplate, settings: Response, iteration: int, seed: int
) -> Batches[Pair]:
    """The pairs that are still owed, in batches of `settings.size`; each batch is seeded by its place.

    A pair keeps its task's id. Its output is the answer without white space around it; it ends at the template's end
    token (a tuned model writes it after a plain prompt too), at what opens the next turn of a prompt in turns, or at
    one of `settings.sampling.stop`.
    """
    asked = load_answer_form(settings.prompt)
    sampling = settings.sampling.model_copy(update={"stop": (chat.end, *asked.stop, *settings.sampling.stop)})

    def made(start: int) -> list[Pair]:
        batch = tasks[start : start + settings.batch_size]
        place = derive_seed(seed, iteration, "response", start // settings.batch_size)
        answers = engine.generate([render_response_prompt(task, chat, settings) for task in batch], sampling, place)
        return [
            Pair(
                **task.model_dump(),
                output=output,
                finish=answer.finish,
                tokens=answer.tokens,
                seed=place,
                thoughts=thoughts,
            )
            for task, answer in zip(batch, answers, strict=True)
            for thoughts, output in [asked.read(answer.text)]
        ]

    def batches(done: Sequence[Pair]) -> Iterator[list[Pair]]:
        return ordered_map(made, range(len(done), len(tasks), settings.batch_size), engine.at_once)

    return batches
