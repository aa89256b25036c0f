"""Answers (Algorithm 1, lines 4 and 5): tasks -> pairs."""

from collections.abc import Sequence
from itertools import chain

from isheep import prompts
from isheep.errors import UserError
from isheep.models.chat_template import ChatTemplate, plain_prompt
from isheep.models.checkpoint import context_length
from isheep.models.tokenization import prompt_ids
from isheep.prompts.forms import BUILTIN_FORMS, AnswerForm, load_answer_form
from isheep.recipe.schema import Recipe, Response
from isheep.records import Completion, DialogueTask, Pair, Task, history_turns
from isheep.stages.context import StageContext
from isheep.stages.follow_ups import write_follow_ups
from isheep.stages.instances import write_instances
from isheep.text.characters import REPLACEMENT


def respond(context: StageContext, tasks: Sequence[Task]) -> Sequence[Pair]:
    """Return D_raw^t, the tasks with the model's answers (pairs.jsonl)."""
    settings = context.recipe.response
    if settings.prompt == "instances":
        return write_instances(context, tasks)
    if settings.turns == 1:
        return answer_tasks(context, tasks)
    return write_dialogues(context, tasks)


def write_dialogues(context: StageContext, tasks: Sequence[Task]) -> Sequence[Pair]:
    """Return the pairs of the first turns, then those of the second turns, whose tasks the model writes as the user."""
    first_pairs = answer_tasks(context, tasks, "first_turns.jsonl")
    second_tasks = write_follow_ups(context, first_pairs)
    second_pairs = answer_tasks(context, second_tasks, "second_turns.jsonl", ("response", "second turn"))
    return context.folder.write("pairs.jsonl", Pair, chain(first_pairs, second_pairs))


def answer_tasks(
    context: StageContext,
    tasks: Sequence[Task],
    name: str = "pairs.jsonl",
    seed_path: tuple[str, ...] = ("response",),
) -> Sequence[Pair]:
    """Return a pair for each task, with the task's id, in the tasks' order; `name` is the file of the pairs.

    The random seed of each batch is derived from `seed_path`, so that first and second turns have different ones.
    The output is the answer without white space around it. Generation stops at the chat template's end token, because
    a tuned model writes it after a plain prompt too; at the text that begins the next turn, if the prompt is written in
    turns; or at `response.sampling.stop`.
    """
    settings = context.recipe.response
    form = load_answer_form(settings.prompt)
    sampling = context.sampling(settings.sampling, *form.stop)

    def answer_batch(start: int) -> list[Pair]:
        batch = tasks[start : start + settings.batch_size]
        seed = context.seed(*seed_path, start // settings.batch_size)
        texts = [render_response_prompt(task, context.chat, settings) for task in batch]
        completions = context.engine.generate(texts, sampling, seed)
        return [_pair(task, completion, form, seed) for task, completion in zip(batch, completions, strict=True)]

    return context.folder.map_batches(
        name, Pair, answer_batch, len(tasks), settings.batch_size, max_in_flight=context.engine.max_in_flight
    )


def _pair(task: Task, completion: Completion, form: AnswerForm, seed: int) -> Pair:
    thoughts, output = read_answer(completion, form)
    return Pair(
        **task.model_dump(),
        output=output,
        finish=completion.finish,
        tokens=completion.tokens,
        seed=seed,
        thoughts=thoughts,
    )


def read_answer(completion: Completion, form: AnswerForm) -> tuple[str | None, str]:
    """Return the thoughts, None if the form has none, and the answer in a completion."""
    text = completion.text
    if completion.finish == "length":
        # The last token may end inside a character, as most Chinese ones take several tokens of bytes.
        text = text.rstrip(REPLACEMENT)
    return form.read(text)


def render_response_prompt(task: Task, chat: ChatTemplate, settings: Response) -> str:
    """Return the text that the model continues with its answer, or with its thoughts and then its answer."""
    form = load_answer_form(settings.prompt)
    if form.chat:
        text = prompts.fill_template(form.template, instruction=task.user_turn)
        history = task.history if isinstance(task, DialogueTask) else ()
        return chat.conversation([*history_turns(history), ("user", text)])
    return plain_prompt(prompts.fill_template(form.template, instruction=task.content), chat)


def text_before_output(pair: Pair, chat: ChatTemplate, settings: Response) -> str:
    """Return the text that a pair's output follows: the prompt and, if the model wrote any, its thoughts."""
    prompt = render_response_prompt(pair, chat, settings)
    if pair.unanswered or pair.thoughts is None:
        return prompt
    return prompt + plain_prompt(f" {pair.thoughts}{load_answer_form(settings.prompt).answer}", chat)


def check_prompt_fits(recipe: Recipe, chat: ChatTemplate) -> None:
    """Raise UserError if a response prompt without any instruction fills the whole context of the recipe's model."""
    for settings in (variant.response for variant in recipe.variants if variant.response.prompt not in BUILTIN_FORMS):
        text = render_response_prompt(Task(id="", instruction=""), chat, settings)
        num_tokens, max_tokens = len(prompt_ids(chat.tokenizer, [text])[0]), context_length(recipe.model)
        if num_tokens >= max_tokens:
            name = repr(settings.prompt) if isinstance(settings.prompt, str) else "in the recipe"
            raise UserError(
                f"response.prompt {name} has {num_tokens} tokens without an instruction, and "
                f"{recipe.model!r} reads {max_tokens}: take a shorter one, such as principles, or a model with a longer"
                " context"
            )
