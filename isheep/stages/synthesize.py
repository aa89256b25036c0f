"""Synthesis (Algorithm 1, line 3): seed tasks in a prompt -> raw replies -> new tasks.

`render_synthesis_prompt` writes the in-context prompt; isheep.stages.blocks reads a continuation of it, and
isheep.stages.rules decides which instructions are accepted.
`generate_replies` asks the model, and `read_tasks` is a pure function of its replies: a run that was killed needs
nothing but the replies.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from math import ceil

from isheep import prompts
from isheep.batching import chunks, ordered_map
from isheep.errors import UserError, shell_word
from isheep.prompts import PromptSource
from isheep.recipe.schema import Synthesis
from isheep.records import Rejected, Reply, Task
from isheep.rundir import progress
from isheep.rundir.iterations import iteration_dir
from isheep.stages.blocks import Block, normalize_newlines, parse_blocks
from isheep.stages.context import StageContext
from isheep.stages.rules import broken_rule, unsafe_text, word_rules
from isheep.stages.topics import TopicPrompts, collect_topics
from isheep.text.novelty import Language, NoveltyPool, is_in_script

# The prompts of an iteration for each of its tasks, at most, if the recipe has no synthesis.budget.
PROMPTS_PER_TASK = 5

# The number of replies whose blocks are in memory at a time.
REPLIES_AT_A_TIME = 1000


# --- the stage


def synthesize(context: StageContext, seed_tasks: Sequence[Task]) -> Sequence[Task]:
    """Return P^t: the tasks read from the model's replies, or an earlier iteration's tasks (synthesis.tasks_of).

    The replies are stored first (replies.jsonl), then the tasks (tasks.jsonl) and the rejected candidates
    (rejected.jsonl) that are read from them.
    """
    settings, folder = context.recipe.synthesis, context.folder
    if settings.tasks_of:
        tasks_of_earlier = iteration_dir(context.run, settings.tasks_of).read("tasks.jsonl", Task)
        return folder.write("tasks.jsonl", Task, tasks_of_earlier)
    topics = collect_topics(context)
    replies = folder.records("replies.jsonl", Reply, partial(generate_replies, context, topics), settings.batch_size)
    if folder.has("tasks.jsonl") and folder.has("rejected.jsonl"):
        return folder.read("tasks.jsonl", Task)
    known_tasks = _known_tasks(seed_tasks, topics)
    tasks, rejected = read_tasks(replies, known_tasks, settings, context.recipe.language, context.iteration)
    if len(tasks) < settings.tasks:
        folder.notify(
            f"iteration {context.iteration}: all {len(replies)} prompts of synthesis.budget are used, going on with "
            f"{len(tasks)} of {settings.tasks} tasks"
        )
    folder.write("rejected.jsonl", Rejected, rejected)
    return folder.write("tasks.jsonl", Task, tasks)


def generate_replies(
    context: StageContext, topics: TopicPrompts | None, existing: Sequence[Reply]
) -> Iterator[list[Reply]]:
    """Yield the missing batches of replies, until the replies hold enough tasks or the budget is used up.

    `existing` are the replies of the whole batches that exist. A batch has `synthesis.batch_size` prompts, which show
    the same examples, so that an engine computes them once (but for `examples_for: prompt`). The batch's seed draws the
    examples and the engine's noise, and generated examples come from the batches before it, so that an interrupted run
    asks the same. Raises UserError
    if the replies of the whole budget hold no task.
    """
    settings = context.recipe.synthesis
    if settings.rules and context.recipe.language not in word_rules() and context.iteration == 1 and not existing:
        context.folder.notify(
            f"language: {context.recipe.language} has no list of unsuitable words, so tasks that need pictures, music "
            "or files are not dropped (docs/seeds.md)"
        )
    known_tasks = _known_tasks(context.seed_tasks, topics)
    reader = TaskReader(known_tasks, settings, context.recipe.language, context.iteration)
    for batch in chunks(existing, REPLIES_AT_A_TIME):
        reader.read(batch)
    num_replies, budget = len(existing), prompt_budget(settings)
    # If prompts show generated tasks, a batch has to wait for the one before it.
    max_in_flight = 1 if settings.generated else context.engine.max_in_flight
    make_batch = partial(_reply_batch, context, topics, reader)
    batches = ordered_map(make_batch, range(num_replies, budget, settings.batch_size), max_in_flight)
    while not reader.is_full:
        _report_tasks(reader, num_replies, budget)
        replies = next(batches, None)
        if replies is None:
            break
        yield replies
        reader.read(replies)
        num_replies += len(replies)
    _report_tasks(reader, num_replies, budget)
    if not reader.tasks:
        raise UserError(
            f"{_no_task_message(context.iteration, num_replies, reader.rejected)}; to read the replies: "
            f"isheep show {shell_word(context.run.path)} {context.iteration} --dropped"
        )


def _report_tasks(reader: "TaskReader", num_replies: int, budget: int) -> None:
    """Show how many tasks there are, and how many replies will probably be needed: at least one more batch."""
    settings, num_tasks = reader.settings, len(reader.tasks)
    progress.set_fact("tasks", f"{num_tasks} of {settings.tasks}")
    needed = settings.tasks * num_replies / num_tasks if num_tasks else num_replies + 1
    progress.expect_rows(min(budget, max(1, ceil(needed / settings.batch_size)) * settings.batch_size))


def _known_tasks(seed_tasks: Sequence[Task], topics: TopicPrompts | None) -> list[Task]:
    """Return the tasks that no new task may resemble: the seed tasks and the worked instructions of a guide."""
    return [*seed_tasks, *(topics.guide.tasks if topics else ())]


def _reply_batch(context: StageContext, topics: TopicPrompts | None, reader: "TaskReader", start: int) -> list[Reply]:
    """Return the replies to the prompts from index `start` on; the last prompts are topic-guided if there are topics.

    A prompt is plain text, or a chat turn for `synthesis.chat`.
    """
    settings = context.recipe.synthesis
    index = start // settings.batch_size
    seed = context.seed("synthesis", index)
    num_prompts = min(settings.batch_size, prompt_budget(settings) - start)
    guided = topics.prompts(start, start + num_prompts, seed) if topics else []
    num_drawn = num_prompts - len(guided)
    if settings.examples_for == "prompt":
        texts = [_draw_prompt(context, reader.tasks, context.seed("synthesis", index, row)) for row in range(num_drawn)]
    else:
        texts = [_draw_prompt(context, reader.tasks, seed)] * num_drawn
    texts = [context.prompt(text, settings.chat) for text in texts + guided]
    completions = context.engine.generate(texts, context.sampling(settings.sampling), seed)
    return [
        Reply(
            id=f"t{context.iteration}-b{index:04d}-{row:02d}",
            text=completion.text,
            finish=completion.finish,
            tokens=completion.tokens,
        )
        for row, completion in enumerate(completions)
    ]


def _draw_prompt(context: StageContext, generated: Sequence[Task], seed: int) -> str:
    settings = context.recipe.synthesis
    examples = draw_examples(context.seed_tasks, generated, settings, seed)
    return render_synthesis_prompt(examples, settings.inputs, context.recipe.synthesis_prompt)


def prompt_budget(settings: Synthesis) -> int:
    """Return the most prompts of an iteration; if they are used up, it continues with the tasks that it has."""
    return settings.budget or PROMPTS_PER_TASK * settings.tasks


def draw_examples(seed_tasks: Sequence[Task], generated: Sequence[Task], settings: Synthesis, seed: int) -> list[Task]:
    """Return the examples of a prompt: up to `settings.generated` of the tasks generated before it, the others from the
    seed tasks, in random order."""
    rng = random.Random(seed)
    examples = rng.sample(generated, min(settings.generated, len(generated)))
    if not examples:
        return rng.sample(seed_tasks, settings.examples)
    examples += rng.sample(seed_tasks, settings.examples - len(examples))
    return rng.sample(examples, len(examples))


def _no_task_message(iteration: int, num_replies: int, rejected: Sequence[Rejected]) -> str:
    counts = Counter("too near a known text" if row.by == "novelty" else row.why for row in rejected).most_common(3)
    reasons = ", ".join(f"{reason}: {count}" for reason, count in counts) or "all were empty"
    return (
        f"iteration {iteration}: none of {num_replies} replies held a usable task ({reasons}); "
        "with a new run folder, try a larger model, more synthesis.sampling.max_tokens or a larger synthesis.budget"
    )


# --- the prompt


def render_synthesis_prompt(examples: Sequence[Task], inputs: bool = True, prompt: PromptSource | None = None) -> str:
    """Return the prompt p^meta with `examples` as blocks 1 to k-1; it ends with "k. Instruction:", without a space.

    Without `inputs` it shows instructions alone. `prompt` replaces isheep's texts (synthesis.prompt).
    """
    if prompt is None:
        prompt = "synthesis" if inputs else "self_instruct/instructions"
    return prompts.render_few_shot(prompt, map(block_fields, examples))


def block_fields(task: Task) -> dict[str, str]:
    """Return the fields of a task's block in a prompt: the instruction on one line, the input or <noinput>."""
    input = normalize_newlines(task.input).strip()
    return {"instruction": " ".join(task.instruction.split()), "input": input or "<noinput>"}


# --- which tasks are accepted


def read_tasks(
    replies: Sequence[Reply], known_tasks: Sequence[Task], settings: Synthesis, language: Language, iteration: int
) -> tuple[list[Task], list[Rejected]]:
    """Return the first `settings.tasks` tasks in the replies, in their order, and the candidates rejected before them.

    A task's id ("t1-00042") is its index among the iteration's tasks; a rejected block's id is its reply's with the
    block's number ("t1-b0003-07.2"). Pure: the same replies give the same rows, at once or batch by batch.
    """
    reader = TaskReader(known_tasks, settings, language, iteration)
    for batch in chunks(replies, REPLIES_AT_A_TIME):
        reader.read(batch)
    return reader.tasks, reader.rejected


class TaskReader:
    """Reads replies into the tasks of one iteration, until there are enough. `known_tasks` are those that no new task
    may resemble."""

    def __init__(self, known_tasks: Sequence[Task], settings: Synthesis, language: Language, iteration: int) -> None:
        self.settings, self.language, self.iteration = settings, language, iteration
        self.tasks: list[Task] = []
        self.rejected: list[Rejected] = []
        self._known_tasks = known_tasks
        # The ids of the novelty pool's texts, in its order.
        self._pool_ids: list[str] = []
        self._pool: NoveltyPool | None = None
        if settings.novelty is not None:
            self._begin_pool(settings.novelty)

    @property
    def is_full(self) -> bool:
        return len(self.tasks) >= self.settings.tasks

    def read(self, replies: Sequence[Reply]) -> None:
        """Read the tasks in more replies. Ignores what follows the last task that is needed."""
        candidates = [
            (f"{reply.id}.{number}", block, self._broken_rule(block))
            for reply in replies
            for number, block in enumerate(self._blocks(reply), 1)
        ]
        accepted = [block.instruction for _, block, reason in candidates if reason is None]
        verdicts = self._compare(accepted)
        for id, block, reason in candidates:
            if self.is_full:
                return
            if reason is None and (verdict := next(verdicts)):
                reason = ("novelty", f"ROUGE-L {verdict[1]:.2f} to {self._pool_ids[verdict[0]]}")
            self._add(id, block, reason)

    def _begin_pool(self, novelty: float) -> None:
        self._pool_ids = [task.id for task in self._known_tasks]
        self._pool = NoveltyPool([task.instruction for task in self._known_tasks], novelty, self.language)

    def _compare(self, texts: Sequence[str]) -> Iterator[tuple[int, float] | None]:
        """Yield what NoveltyPool.novel returns for each text, which must then be added before the next one is taken."""
        chunk, novelty = self.settings.novelty_chunk, self.settings.novelty
        if self._pool is None or novelty is None:
            yield from [None] * len(texts)
        elif chunk is None:
            yield from self._pool.novel(texts)
        else:
            for text in texts:
                if len(self._pool) == len(self._known_tasks) + chunk:
                    self._begin_pool(novelty)
                yield from self._pool.novel([text])

    def _blocks(self, reply: Reply) -> list[Block]:
        blocks = parse_blocks(reply.text, self.settings.examples + 1, cut=reply.finish == "length")
        return blocks if self.settings.inputs else [block._replace(input="") for block in blocks]

    def _add(self, id: str, block: Block, reason: tuple[str, str] | None) -> None:
        if reason:
            self.rejected.append(Rejected(id=id, text=block.text, by=reason[0], why=reason[1]))
            return
        task = Task(id=f"t{self.iteration}-{len(self.tasks):05d}", instruction=block.instruction, input=block.input)
        self.tasks.append(task)
        self._pool_ids.append(task.id)

    def _broken_rule(self, block: Block) -> tuple[str, str] | None:
        """Return who rejects a block by itself, before it is compared with others, and why; None if nobody does."""
        if block.cut:
            return "parse", "cut off"
        if not block.instruction:
            return "parse", "no instruction"
        if block.ambiguous:
            return "parse", f"ambiguous: {block.ambiguous}"
        if self.settings.rules:
            reason = broken_rule(block.instruction, self.language)
        else:
            reason = unsafe_text(block.instruction)
        if reason := reason or unsafe_text(block.input):
            return "rules", reason
        # In English the script matters only to novelty, which compares the letters a to z.
        rejected_by = "novelty" if self.language == "en" else "rules"
        checks_script = self._pool is not None if self.language == "en" else self.settings.rules
        if checks_script and not is_in_script(block.instruction, self.language):
            return rejected_by, f"mostly in another script than language: {self.language}"
        return None
