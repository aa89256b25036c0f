"""Self-Instruct's own pipeline from tasks to pairs (Wang et al. 2023, Section 2.2): tasks -> kinds -> instances.

The model first says of each instruction whether it is a classification task. Then it writes an instance, an input with
its output: the input first, or for classification the output first, since inputs that are written first keep to one
label.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from isheep.batching import derive_seed
from isheep.errors import UserError
from isheep.prompts import render_few_shot
from isheep.records import UNREADABLE, Completion, Instance, Pair, Rejected, Sampling, Task, TaskKind
from isheep.seeds import SeedTask, of_kind
from isheep.seeds.no_input import is_no_input
from isheep.stages.blocks import INLINE_LABEL, LABEL, normalize_newlines
from isheep.stages.context import StageContext
from isheep.stages.synthesize import block_fields

TaskWithKind = tuple[Task, TaskKind]

# Where the next part or task begins: a separator or a label at the start of a line.
PART_END = re.compile(rf"{LABEL.pattern}|^[ \t]*#{{3,}}")

ANSWER = re.compile(r"[\W_]*(yes|no)\b", re.IGNORECASE)

# Greedy, and a few tokens of one line: the reply is a word or two.
CLASSIFICATION_SAMPLING = Sampling(temperature=0, top_p=1, max_tokens=8, stop=("\n",))

# The prompt files of the two orders, each with the fields in the order in which the model writes them.
ORDERS = {"input_first": ("input", "output"), "output_first": ("output", "input")}


def write_instances(context: StageContext, tasks: Sequence[Task]) -> Sequence[Pair]:
    """Return D_raw^t: the instances of the tasks that make a pair. The others go to unanswered.jsonl, with reasons."""
    kinds = classify_tasks(context, tasks)
    tasks_with_kinds = list(zip(tasks, kinds, strict=True))
    instances = generate_instances(context, tasks_with_kinds)
    pairs, rejected = pairs_of_instances(context, tasks_with_kinds, instances)
    context.folder.write("unanswered.jsonl", Rejected, rejected)
    return context.folder.write("pairs.jsonl", Pair, pairs)


# --- the kind of a task


def classify_tasks(context: StageContext, tasks: Sequence[Task]) -> Sequence[TaskKind]:
    """Return whether the model takes each task for classification, from a greedy reply of a few tokens.

    The prompts of a batch show the same seed tasks, half of each kind, drawn by the batch's seed (task_kinds.jsonl).
    """
    settings = context.recipe.response
    sampling = context.sampling(CLASSIFICATION_SAMPLING)

    def classify_batch(start: int) -> list[TaskKind]:
        seed = context.seed("classification", start // settings.batch_size)
        examples = [
            block_fields(task) | {"answer": "Yes" if task.is_classification else "No"}
            for task in _draw_both_kinds(context.seed_tasks, settings.num_instance_examples, random.Random(seed))
        ]
        batch = tasks[start : start + settings.batch_size]
        texts = [
            context.prompt(render_few_shot("self_instruct/classification", examples, block_fields(task)), in_chat=False)
            for task in batch
        ]
        return [
            TaskKind(id=task.id, classification=parse_kind(reply.text), reply=reply.text, tokens=reply.tokens)
            for task, reply in zip(batch, context.engine.generate(texts, sampling, seed), strict=True)
        ]

    return context.folder.map_batches(
        "task_kinds.jsonl",
        TaskKind,
        classify_batch,
        len(tasks),
        settings.batch_size,
        max_in_flight=context.engine.max_in_flight,
    )


def parse_kind(reply: str) -> bool | None:
    """Return whether the reply's first word is yes or no, in any case and after any marks; None if it is neither."""
    match = ANSWER.match(reply)
    return match[1].lower() == "yes" if match else None


def _draw_both_kinds(seed_tasks: Sequence[SeedTask], count: int, rng: random.Random) -> list[SeedTask]:
    sample = rng.sample(of_kind(seed_tasks, True), count // 2)
    sample += rng.sample(of_kind(seed_tasks, False), count - count // 2)
    return rng.sample(sample, count)


def writing_order(kind: TaskKind) -> str:
    """Return the key of ORDERS for a task. If the model's reply on the kind can't be read, the task counts as not
    classification, as in Self-Instruct."""
    return "output_first" if kind.classification else "input_first"


# --- an instance


class InstancePart(NamedTuple):
    """An input or an output as the model wrote it; `cut` says that it was cut off at max_tokens."""

    text: str = ""
    cut: bool = False
    tokens: int = 0


def generate_instances(context: StageContext, tasks_with_kinds: Sequence[TaskWithKind]) -> Sequence[Instance]:
    """Return one instance for each task, in the tasks' order (instances.jsonl)."""
    settings = context.recipe.response

    def instance_batch(start: int) -> list[Instance]:
        batch = tasks_with_kinds[start : start + settings.batch_size]
        instances: dict[str, Instance] = {}
        for order in ORDERS:
            tasks = [task for task, kind in batch if writing_order(kind) == order]
            seed = context.seed(order, start // settings.batch_size)
            instances |= {instance.id: instance for instance in _generate_in_order(context, tasks, order, seed)}
        return [instances[task.id] for task, _ in batch]

    return context.folder.map_batches(
        "instances.jsonl",
        Instance,
        instance_batch,
        len(tasks_with_kinds),
        settings.batch_size,
        max_in_flight=context.engine.max_in_flight,
        requests_per_row=2,
    )


def _generate_in_order(context: StageContext, tasks: Sequence[Task], order: str, seed: int) -> list[Instance]:
    """Return the instances of a batch's tasks that are written in one order, with two calls of the engine.

    The first call asks for the first field, the second for the other field after it, so that a model need not write the
    label between them. If the first field was cut off, or is an empty output, there is no second call for the task.
    The prompts show the same seed tasks of the kind, drawn by `seed`.
    """
    settings = context.recipe.response
    first, second = ORDERS[order]
    num_examples = settings.num_instance_examples
    sample = random.Random(seed).sample(of_kind(context.seed_tasks, order == "output_first"), num_examples)
    examples = [block_fields(task) | {"output": normalize_newlines(task.output)} for task in sample]
    sampling = context.sampling(settings.sampling, "\n###", f"\n{num_examples + 1}. {second.capitalize()}:")
    prompt_file = f"self_instruct/{order}"

    def render(fields: dict[str, str], *part: str) -> str:
        return context.prompt(render_few_shot(prompt_file, examples, fields, *part), in_chat=False)

    texts = [render(block_fields(task)) for task in tasks]
    first_parts = [parse_part(reply) for reply in context.engine.generate(texts, sampling, seed)]

    complete = [index for index, part in enumerate(first_parts) if not part.cut and (part.text or first == "input")]
    fields = [block_fields(tasks[index]) | {first: first_parts[index].text or "<noinput>"} for index in complete]
    texts = [render(row, "then") for row in fields]
    replies = context.engine.generate(texts, sampling, derive_seed(seed, "then"))
    second_parts = dict(zip(complete, map(parse_part, replies), strict=True))

    return [
        _join_parts(task.id, {first: first_parts[index], second: second_parts.get(index, InstancePart())})
        for index, task in enumerate(tasks)
    ]


def parse_part(reply: Completion) -> InstancePart:
    """Return a reply up to where the next part or task begins, without white space around it."""
    reply_text = normalize_newlines(reply.text)
    text = PART_END.split(reply_text)[0]
    # Of a reply that can't be read, no part is whole.
    is_cut = reply.finish == UNREADABLE or (reply.finish == "length" and text == reply_text)
    return InstancePart(text.strip(), is_cut, reply.tokens)


def _join_parts(id: str, parts: dict[str, InstancePart]) -> Instance:
    cut = tuple(name for name, part in parts.items() if part.cut)
    tokens = sum(part.tokens for part in parts.values())
    return Instance(id=id, input=parts["input"].text, output=parts["output"].text, cut=cut, tokens=tokens)


# --- from instances to pairs


def pairs_of_instances(
    context: StageContext, tasks_with_kinds: Sequence[TaskWithKind], instances: Sequence[Instance]
) -> tuple[list[Pair], list[Rejected]]:
    """Return the instances that make a pair, under their tasks' ids, and the others with the reason.

    A pair has an output, and neither its input nor a label written first was cut off. An output that is written last
    may be cut off; the pair's finish is "length" then, as for an answer. Raises UserError if no instance makes a pair.
    """
    pairs: list[Pair] = []
    rejected: list[Rejected] = []
    batch_size = context.recipe.response.batch_size
    for index, ((task, kind), instance) in enumerate(zip(tasks_with_kinds, instances, strict=True)):
        order = writing_order(kind)
        if reason := _reason_for_no_pair(instance, order):
            text = "\n".join(f"{field}: {instance.model_dump()[field]}" for field in ORDERS[order])
            rejected.append(Rejected(id=task.id, text=text, by="instances", why=reason))
        else:
            pairs.append(_pair(task, instance, context.seed(order, index // batch_size)))
    if not pairs:
        counts = Counter(row.why for row in rejected).most_common()
        reasons = ", ".join(f"{reason}: {count}" for reason, count in counts)
        raise UserError(
            f"iteration {context.iteration}: none of {len(rejected)} instances is an input with an output ({reasons}); "
            "with a new run folder, try a larger model or more response.sampling.max_tokens"
        )
    return pairs, rejected


def _pair(task: Task, instance: Instance, seed: int) -> Pair:
    return Pair(
        id=task.id,
        instruction=task.instruction,
        input="" if is_no_input(instance.input) else instance.input,
        output=instance.output,
        finish="length" if instance.cut else "stop",
        tokens=instance.tokens,
        seed=seed,
    )


def _reason_for_no_pair(instance: Instance, order: str) -> str | None:
    """Return why an instance makes no pair, None if it makes one."""
    if "input" in instance.cut:
        return "input cut off"
    if "output" in instance.cut and order == "output_first":
        return "output cut off"
    if INLINE_LABEL.search(instance.input) or INLINE_LABEL.search(instance.output):
        return "ambiguous: a label within a line"
    return None if instance.output else "no output"
