"""Self-Instruct's own way to pairs (Wang et al. 2023, Section 2.2): instructions -> their kinds -> instances.

The model says of each instruction whether it is classification. Then it writes an instance, an input with its output:
the input first, or for classification the output first, since inputs that are written first keep to one label.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from isheep.batching import derive_seed, ordered_map
from isheep.engines import Engine
from isheep.errors import UserError
from isheep.models.chat_template import ChatTemplate
from isheep.prompts import render_few_shot
from isheep.recipe.schema import Response
from isheep.records import Completion, Instance, Pair, Rejected, Sampling, Task, TaskKind
from isheep.rundir.folder import Batches
from isheep.seeds import SeedTask, of_kind
from isheep.stages.synthesize import LABEL, NO_INPUT, block_fields, normalize_newlines

ANSWER = re.compile(r"[\W_]*(yes|no)\b", re.IGNORECASE)
ASKED = Sampling(temperature=0, top_p=1, max_tokens=8, stop=("\n",))  # greedy, a word or two
ORDERS = {"input_first": ("input", "output"), "output_first": ("output", "input")}  # prompts, and what they ask for


# --- which kind


def parse_kind(reply: str) -> bool | None:
    """Yes or no where the reply's first word is one of the two, in any case and after any marks; else None."""
    found = ANSWER.match(reply)
    return found[1].lower() == "yes" if found else None


def classify_tasks(
    engine: Engine,
    seeds: Sequence[SeedTask],
    tasks: Sequence[Task],
    chat: ChatTemplate,
    settings: Response,
    t: int,
    seed: int,
) -> Batches[TaskKind]:
    """What the model says of each task, still owed, in batches of `settings.size`: a greedy reply of a few tokens.

    A batch's prompts show the same `settings.shown` seeds, half of each kind, drawn at its place.
    """
    sampling = ASKED.model_copy(update={"stop": (chat.end, *ASKED.stop)})

    def made(start: int) -> list[TaskKind]:
        place = derive_seed(seed, t, "classification", start // settings.batch_size)
        examples = [
            block_fields(one) | {"answer": "Yes" if one.is_classification else "No"}
            for one in _of_both(seeds, settings.shown, random.Random(place))
        ]
        batch = tasks[start : start + settings.batch_size]
        asked = [render_few_shot("self_instruct/classification", examples, block_fields(task)) for task in batch]
        return [
            TaskKind(id=task.id, classification=parse_kind(reply.text), reply=reply.text, tokens=reply.tokens)
            for task, reply in zip(batch, engine.generate(asked, sampling, place), strict=True)
        ]

    def batches(done: Sequence[TaskKind]) -> Iterator[list[TaskKind]]:
        return ordered_map(made, range(len(done), len(tasks), settings.batch_size), engine.at_once)

    return batches


def _of_both(seeds: Sequence[SeedTask], count: int, rng: random.Random) -> list[SeedTask]:
    drawn = rng.sample(of_kind(seeds, True), count // 2) + rng.sample(of_kind(seeds, False), count - count // 2)
    return rng.sample(drawn, count)


def writing_order(kind: TaskKind) -> str:
    """What is written first. Where the model's word on the kind can't be read, the task counts as not classification,
    as in Self-Instruct."""
    return "output_first" if kind.classification else "input_first"


# --- an instance


class InstancePart(NamedTuple):
    """An input or an output as written; `cut` where it was cut off at max_tokens."""

    text: str = ""
    cut: bool = False
    tokens: int = 0


def parse_part(reply: Completion) -> InstancePart:
    """A reply up to where the next part or task begins, without white space around it."""
    whole = normalize_newlines(reply.text)
    text = LABEL.split(re.split(r"#{3,}", whole)[0])[0]
    return InstancePart(text.strip(), reply.finish == "length" and text == whole, reply.tokens)


def generate_instances(
    engine: Engine,
    seeds: Sequence[SeedTask],
    tasks: Sequence[tuple[Task, TaskKind]],
    chat: ChatTemplate,
    settings: Response,
    t: int,
    seed: int,
) -> Batches[Instance]:
    """One instance for each task, still owed, in batches of `settings.size`, with two calls for each order.

    The first call asks for what comes first, the second for the rest after it, so that a model need not write the label
    between them; where the first was cut off, or is an output and empty, nothing more is asked. The prompts show the
    same `settings.shown` seeds of the kind, drawn at the batch's place.
    """

    def ask(batch: Sequence[Task], name: str, place: int) -> list[Instance]:
        drawn = random.Random(place).sample(of_kind(seeds, name == "output_first"), settings.shown)
        examples = [block_fields(one) | {"output": normalize_newlines(one.output)} for one in drawn]
        first, second = ORDERS[name]
        label = f"\n{settings.shown + 1}. {second.capitalize()}:"
        sampling = settings.sampling.model_copy(update={"stop": (chat.end, "###", label, *settings.sampling.stop)})
        file = f"self_instruct/{name}"
        asked = [render_few_shot(file, examples, block_fields(task)) for task in batch]
        heads = [parse_part(reply) for reply in engine.generate(asked, sampling, place)]
        whole = [i for i, head in enumerate(heads) if not head.cut and (head.text or first == "input")]
        begun = [block_fields(batch[i]) | {first: heads[i].text or "<noinput>"} for i in whole]
        asked = [render_few_shot(file, examples, row, "then") for row in begun]
        replies = engine.generate(asked, sampling, derive_seed(place, "then"))
        rests = dict(zip(whole, map(parse_part, replies), strict=True))
        parts = [{first: head, second: rests.get(i, InstancePart())} for i, head in enumerate(heads)]
        return [_joined(task.id, both) for task, both in zip(batch, parts, strict=True)]

    def made(start: int) -> list[Instance]:
        batch = tasks[start : start + settings.batch_size]
        written = dict[str, Instance]()
        for name in ORDERS:
            place = derive_seed(seed, t, name, start // settings.batch_size)
            mine = [task for task, kind in batch if writing_order(kind) == name]
            written |= {one.id: one for one in ask(mine, name, place)}
        return [written[task.id] for task, _ in batch]

    def batches(done: Sequence[Instance]) -> Iterator[list[Instance]]:
        return ordered_map(made, range(len(done), len(tasks), settings.batch_size), engine.at_once)

    return batches


def _joined(id: str, parts: dict[str, InstancePart]) -> Instance:
    cut = tuple(name for name, one in parts.items() if one.cut)
    tokens = sum(one.tokens for one in parts.values())
    return Instance(id=id, input=parts["input"].text, output=parts["output"].text, cut=cut, tokens=tokens)


def pairs_of_instances(
    tasks: Sequence[tuple[Task, TaskKind]], written: Sequence[Instance], settings: Response, t: int, seed: int
) -> tuple[list[Pair], list[Rejected]]:
    """The pairs in the instances, under their tasks' ids, and the instances that are none. Pure.

    A pair has an output, and neither its input nor a label written first was cut off; an output that comes last may be,
    and is "length" then, as an answer is. Raises UserError where no instance is a pair.
    """
    pairs, lost = list[Pair](), list[Rejected]()
    for place, ((task, kind), one) in enumerate(zip(tasks, written, strict=True)):
        if why := _broken(one, kind):
            text = "\n".join(f"{name}: {one.model_dump()[name]}" for name in ORDERS[writing_order(kind)])
            lost.append(Rejected(id=task.id, text=text, by="instances", why=why))
            continue
        pairs.append(
            Pair(
                id=task.id,
                instruction=task.instruction,
                input="" if NO_INPUT.fullmatch(one.input) else one.input,
                output=one.output,
                finish="length" if one.cut else "stop",
                tokens=one.tokens,
                seed=derive_seed(seed, t, writing_order(kind), place // settings.batch_size),
            )
        )
    if not pairs:
        reasons = ", ".join(f"{why}: {count}" for why, count in Counter(one.why for one in lost).most_common())
        way = "with a new --out, try a larger model or more response.sampling.max_tokens"
        raise UserError(f"iteration {t}: none of {len(lost)} instances is an input with an output ({reasons}); {way}")
    return pairs, lost


def _broken(one: Instance, kind: TaskKind) -> str | None:
    """Why an instance is no pair, None where it is one."""
    if "input" in one.cut:
        return "input cut off"
    if "output" in one.cut and writing_order(kind) == "output_first":
        return "output cut off"
    return None if one.output else "no output"
