"""Synthesis (Algorithm 1, line 3): seed tasks in a prompt -> raw replies -> new tasks.

`render` writes the in-context prompt and `parse` reads a continuation of it. `replies` asks the engine, `read_tasks` is
a pure function of what it wrote: a killed run needs nothing but the replies.
"""

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from isheep import prompts
from isheep.batching import chunks, derive_seed, ordered_map
from isheep.engines import Engine
from isheep.errors import UserError
from isheep.models.chat_template import ChatTemplate
from isheep.recipe.schema import Synthesis
from isheep.records import Rejected, Reply, Task
from isheep.seeds import SeedTask
from isheep.stages.topics import TopicPrompts
from isheep.text.novelty import Language, NoveltyPool, split_words

PROMPTS_PER_TASK = 5  # the budget where a recipe gives none: this many prompts for each task asked for

AT_ONCE = 1000  # replies whose blocks are held at once

LABEL = re.compile(r"(?im)(?:\b\d+\s*[.)]|^)[ \t]*(instruction|input|output)[ \t]*:")
NO_INPUT = re.compile(r"(?i)<no ?input>.*|[\W_]*(?:no[\W_]?input|none|n/?a)[\W_]*", re.DOTALL)
UNSAFE = re.compile(r"<\|.{0,40}?\|>|###")
BLACKLIST = re.compile(
    r"(?i)\b(?:images?|graphs?|pictures?|files?|maps?|draw|plot|go to|video|audio|music|flowchart|diagram)\b"
)


# --- the prompt and its reading, side by side


def render_synthesis_prompt(examples: Sequence[Task], inputs: bool = True) -> str:
    """The prompt p^meta with `examples` as blocks 1 to k-1: it ends with "k. Instruction:", without a space.

    Without `inputs` it shows instructions alone.
    """
    return prompts.render_few_shot("synthesis" if inputs else "self_instruct/instructions", map(block_fields, examples))


def block_fields(task: Task) -> dict[str, str]:
    """What a block of a prompt shows of a task: the instruction on one line, the input or <noinput>."""
    given = normalize_newlines(task.input).strip()
    return {"instruction": " ".join(task.instruction.split()), "input": given or "<noinput>"}


class Block(NamedTuple):
    """One numbered block as written. `instruction` is "" where there was none; `cut` where it ended in the middle."""

    text: str
    instruction: str
    input: str
    cut: bool


def parse_blocks(text: str, first: int, cut: bool = False) -> list[Block]:
    """The blocks of a continuation of a prompt that ended with "`first`. Instruction:"; never raises.

    Blocks are told apart by `###` and by labels ("7. Instruction:"; any number, any case, a bare label where it starts
    a line). What follows an "Output:" label is not ours to use. `cut` says that the text was cut off: so is then its
    last block, unless it had come to its output.
    """
    sections = re.split(r"#{3,}", f"{first}. Instruction:{normalize_newlines(text)}")
    pieces = [piece for section in sections for piece in _split(section)]
    blocks = [_block(piece, cut and n == len(pieces)) for n, piece in enumerate(pieces, 1)]
    return [block for block in blocks if LABEL.sub("", block.text).strip(string.whitespace + string.digits + ".")]


def _split(section: str) -> list[str]:
    """A section cut before every instruction label but the first."""
    starts = [label.start() for label in LABEL.finditer(section) if label[1].lower() == "instruction"]
    edges = [0, *starts[1:], len(section)]
    return [section[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def _block(text: str, cut: bool) -> Block:
    _, *parts = LABEL.split(text)  # label, what follows it, label, ...: the first of each kind counts
    fields = {name.lower(): value.strip() for name, value in reversed(list(zip(parts[::2], parts[1::2], strict=True)))}
    given = fields.get("input", "")
    return Block(
        text=text.strip(),
        instruction=fields.get("instruction", ""),
        input="" if NO_INPUT.fullmatch(given) else given,
        cut=cut and "output" not in fields,
    )


def normalize_newlines(text: str) -> str:
    """`text` with every line end as one character."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


# --- which tasks are kept


def broken_rule(instruction: str, language: Language = "en") -> str | None:
    """Why an instruction is left out, None where it is fine: Self-Instruct's rules (Wang et al. 2023, Section 2.2).

    More than 3 and at most 150 words; no word of things that a text model can't see or make; no "Write a program"; no
    punctuation and, for "en", no non-ASCII character at the start. For "any" the words are Unicode words and letters of
    every script may start. Text like a special token or the separator of the prompt is left out too.
    """
    count = len(instruction.split() if language == "en" else split_words(instruction, language))
    if count <= 3:
        return "3 words or fewer"
    if count > 150:
        return "more than 150 words"
    if found := BLACKLIST.search(instruction):
        return f"holds the word {found[0].lower()!r}"
    if instruction.startswith("Write a program"):
        return "starts with 'Write a program'"
    return _start(instruction[0], language) or _unsafe(instruction)


def _start(first: str, language: Language) -> str | None:
    if language == "en" and not first.isascii():
        return "starts with a non-ASCII character"
    opens = first not in string.punctuation if language == "en" else first.isalnum() or first in "¿¡"
    return None if opens else "starts with punctuation"


def _unsafe(text: str) -> str | None:
    return f"holds {found[0]!r}" if (found := UNSAFE.search(text)) else None


def read_tasks(
    replies: Sequence[Reply], seeds: Sequence[Task], settings: Synthesis, language: Language, iteration: int
) -> tuple[list[Task], list[Rejected]]:
    """The first `settings.tasks` tasks in the replies, in their order, and what was rejected on the way there.

    A task's id ("t1-00042") is its place among the kept ones of the iteration; a rejected block's id is its reply's
    with the block's number ("t1-b0003-07.2"). Pure: the same replies give the same rows, at once or batch by batch.
    """
    reader = _Reader(seeds, settings, language, iteration)
    for some in chunks(replies, AT_ONCE):
        reader.read(some)
    return reader.tasks, reader.rejected


class _Reader:
    """The tasks read so far, for one iteration. Replies after the last task that is needed are not read."""

    def __init__(self, seeds: Sequence[Task], settings: Synthesis, language: Language, iteration: int) -> None:
        self.settings, self.language, self.iteration = settings, language, iteration
        self.tasks: list[Task] = []
        self.rejected: list[Rejected] = []
        self.names = [seed.id for seed in seeds]  # of what the pool knows, in its order
        limit = settings.novelty
        self.pool = None if limit is None else NoveltyPool([seed.instruction for seed in seeds], limit, language)

    @property
    def full(self) -> bool:
        return len(self.tasks) >= self.settings.tasks

    def read(self, replies: Sequence[Reply]) -> None:
        found = [
            (f"{reply.id}.{n}", block, self._refusal(block))
            for reply in replies
            for n, block in enumerate(self._blocks(reply), 1)
        ]
        fine = [block.instruction for _, block, refusal in found if refusal is None]
        verdicts = iter(self.pool.novel(fine) if self.pool else [None] * len(fine))
        for name, block, refusal in found:
            if self.full:
                return
            if refusal is None and (verdict := next(verdicts)):
                refusal = ("novelty", f"ROUGE-L {verdict[1]:.2f} to {self.names[verdict[0]]}")
            self._add(name, block, refusal)

    def _blocks(self, reply: Reply) -> list[Block]:
        blocks = parse_blocks(reply.text, self.settings.examples + 1, cut=reply.finish == "length")
        return blocks if self.settings.inputs else [block._replace(input="") for block in blocks]

    def _add(self, name: str, block: Block, refusal: tuple[str, str] | None) -> None:
        if refusal:
            self.rejected.append(Rejected(id=name, text=block.text, by=refusal[0], why=refusal[1]))
            return
        id = f"t{self.iteration}-{len(self.tasks):05d}"
        self.tasks.append(Task(id=id, instruction=block.instruction, input=block.input))
        self.names.append(id)

    def _refusal(self, block: Block) -> tuple[str, str] | None:
        """(who, why) where a block is refused on its own, before novelty."""
        if block.cut:
            return "parse", "cut off"
        if not block.instruction:
            return "parse", "no instruction"
        why = broken_rule(block.instruction, self.language) if self.settings.rules else _unsafe(block.instruction)
        why = why or _unsafe(block.input)
        return ("rules", why) if why else None


# --- the stage


def prompt_budget(settings: Synthesis) -> int:
    """The most prompts that an iteration asks before it goes on with the tasks it has: the recipe's, or a default."""
    return settings.budget or PROMPTS_PER_TASK * settings.tasks


def draw_examples(seeds: Sequence[SeedTask], written: Sequence[Task], settings: Synthesis, place: int) -> list[Task]:
    """The examples of a batch, drawn at its place: up to `settings.generated` of the tasks `written` before it, the
    others from the seeds, in an order that is drawn too."""
    rng = random.Random(place)
    own = rng.sample(written, min(settings.generated, len(written)))
    examples = [*own, *rng.sample(seeds, settings.examples - len(own))]
    return rng.sample(examples, len(examples)) if own else examples


def generate_replies(
    engine: Engine,
    seeds: Sequence[SeedTask],
    chat: ChatTemplate,
    settings: Synthesis,
    language: Language,
    iteration: int,
    seed: int,
    topics: TopicPrompts | None = None,
) -> Callable[[Sequence[Reply]], Iterator[list[Reply]]]:
    """What still has to be asked, given the replies that are there: batches of `settings.size`, until enough tasks
    are in them or the budget (`budget_of`) is used.

    The prompts of a batch show the same examples, so that an engine computes them once; the batch's place seeds the
    choice of examples and the engine's noise, and generated ones come from the batches before it, so that an
    interrupted run asks the same. The prompt is plain text, or a chat turn (`settings.chat`); a reply ends at the
    template's end token. Where there are `topics`, the last prompts of a batch show their worked instructions in place
    of seed tasks, then a kind and a topic (Topics.prompts). Raises UserError where the whole budget held no task.
    """
    sampling = settings.sampling.model_copy(update={"stop": (chat.end, *settings.sampling.stop)})

    def batches(done: Sequence[Reply]) -> Iterator[list[Reply]]:
        reader = _Reader([*seeds, *(topics.guide.tasks if topics else ())], settings, language, iteration)
        for some in chunks(done, AT_ONCE):
            reader.read(some)
        asked, budget = len(done), prompt_budget(settings)

        def made(start: int) -> list[Reply]:
            b = start // settings.batch_size
            place = derive_seed(seed, iteration, "synthesis", b)
            number = min(settings.batch_size, budget - start)
            guided = topics.prompts(start, start + number, place) if topics else []
            text = render_synthesis_prompt(draw_examples(seeds, reader.tasks, settings, place), settings.inputs)
            texts = [text] * (number - len(guided)) + guided
            texts = [chat.prompt(text) for text in texts] if settings.chat else texts
            written = engine.generate(texts, sampling, place)
            return [
                Reply(id=f"t{iteration}-b{b:04d}-{i:02d}", text=c.text, finish=c.finish, tokens=c.tokens)
                for i, c in enumerate(written)
            ]

        # Where prompts show what was generated, a batch has to wait for the one before it.
        at_once = 1 if settings.generated else engine.at_once
        owed = ordered_map(made, range(asked, budget, settings.batch_size), at_once)
        while not reader.full and (batch := next(owed, None)):
            yield batch
            reader.read(batch)
            asked += len(batch)
        if not reader.tasks:
            raise UserError(_nothing(iteration, asked, reader.rejected))

    return batches


def _nothing(iteration: int, asked: int, rejected: list[Rejected]) -> str:
    reasons = Counter("too near a known text" if r.by == "novelty" else r.why for r in rejected).most_common(3)
    why = ", ".join(f"{reason}: {count}" for reason, count in reasons) or "all were empty"
    way = "with a new --out, try a larger model, more synthesis.sampling.max_tokens or a larger synthesis.budget"
    return f"iteration {iteration}: none of {asked} replies held a usable task ({why}); {way}"
