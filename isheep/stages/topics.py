"""Topic-guided red-teaming, a part of synthesis (Dromedary, Sun et al. 2023, Section 3.1).

The model writes topics for kinds of questions that are hard to answer correctly, then instructions of a kind about a
topic. The texts are those of a guide (prompts.forms.TopicGuide).
"""

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from isheep import prompts
from isheep.prompts.forms import QuestionKind, TopicGuide, load_topic_guide
from isheep.records import Reply
from isheep.stages.context import StageContext

# A topic has a letter, and no mark that a prompt or a chat template uses.
TOPIC = re.compile(r"(?=.*[^\W\d_])\w[\w ,.'’&/()-]{0,59}")
MAX_TOPIC_WORDS = 6


class TopicPrompts(NamedTuple):
    """A guide, and for each of its kinds all known topics: the guide's and those that a model wrote."""

    guide: TopicGuide
    topics: Sequence[Sequence[str]]
    share: float
    num_examples: int

    def prompts(self, start: int, end: int, seed: int) -> list[str]:
        """Return the topic-guided prompts among an iteration's prompts `start` to `end` - 1: `share` of them, evenly
        spread.

        All show the same worked examples, then a kind and a topic, drawn for each prompt from `seed`.
        """
        rng = random.Random(seed)
        kinds = rng.sample(self.guide.kinds, self.num_examples)
        blocks = [_block(self.guide, number, kind) for number, kind in enumerate(kinds, 1)]
        head = f"{self.guide.meta}\n\n" + "\n".join([*blocks, ""])
        num_prompts = int(end * self.share) - int(start * self.share)
        kind_indices = [rng.randrange(len(self.topics)) for _ in range(num_prompts)]
        return [head + self._open_block(kind_index, rng) for kind_index in kind_indices]

    def _open_block(self, kind_index: int, rng: random.Random) -> str:
        kind, topic = self.guide.kinds[kind_index].kind, rng.choice(self.topics[kind_index])
        return prompts.fill_template(self.guide.open, k=str(self.num_examples + 1), kind=kind, topic=topic)


def _block(guide: TopicGuide, number: int, kind: QuestionKind) -> str:
    return prompts.fill_template(
        guide.block, k=str(number), kind=kind.kind, topic=kind.topics[0], instruction=kind.instruction
    )


def collect_topics(context: StageContext) -> TopicPrompts | None:
    """Return the guide with the model's new topics, or None if the recipe has no topic-guided prompts."""
    settings = context.recipe.synthesis.topics
    if settings is None:
        return None
    guide = load_topic_guide(settings.file)
    replies = generate_topics(context, guide, settings.rounds)
    topics, num_refused = parse_topics(replies, guide)
    if not context.folder.has("tasks.jsonl"):
        num_new = sum(map(len, topics)) - sum(len(kind.topics) for kind in guide.kinds)
        context.folder.notify(
            f"iteration {context.iteration}: {num_new} new topics in {len(replies)} replies, {num_refused} refused"
        )
    return TopicPrompts(guide, topics, settings.share, context.recipe.synthesis.examples)


def generate_topics(context: StageContext, guide: TopicGuide, rounds: int) -> Sequence[Reply]:
    """Return the replies in which the model continues each of the guide's lists of topics, `rounds` times.

    A batch has one reply for each kind, in their order (topics.jsonl). A reply ends with its line.
    """
    settings = context.recipe.synthesis
    sampling = context.sampling(settings.sampling, "\n")
    texts = [
        prompts.fill_template(guide.ask_topics, kind=kind.kind, topics="; ".join(kind.topics)) for kind in guide.kinds
    ]
    texts = [context.prompt(text, settings.chat) for text in texts]

    def topic_batch(start: int) -> list[Reply]:
        index = start // len(texts)
        completions = context.engine.generate(texts, sampling, context.seed("topics", index))
        return [
            Reply(
                id=f"t{context.iteration}-k{index:02d}-{row:02d}",
                text=completion.text,
                finish=completion.finish,
                tokens=completion.tokens,
            )
            for row, completion in enumerate(completions)
        ]

    return context.folder.map_batches(
        "topics.jsonl", Reply, topic_batch, rounds * len(texts), len(texts), max_in_flight=context.engine.max_in_flight
    )


def parse_topics(replies: Sequence[Reply], guide: TopicGuide) -> tuple[list[list[str]], int]:
    """Return all topics by kind, the guide's first, and the number of topics in the replies that were refused.

    A topic is accepted if it is new to its kind whatever its case and spacing, has at most `MAX_TOPIC_WORDS` words and
    no mark that could end a prompt. The last topic of a reply that was cut off is refused.
    """
    topics = [list(kind.topics) for kind in guide.kinds]
    seen = [{topic.casefold() for topic in kind_topics} for kind_topics in topics]
    num_refused = 0
    for index, reply in enumerate(replies):
        kind_index = index % len(topics)
        parts = [" ".join(part.split()).rstrip(" .") for part in reply.text.split(";")]
        num_complete = len(parts) - 1 if reply.finish == "length" else len(parts)
        for position, topic in enumerate(parts):
            if position < num_complete and _is_topic(topic) and topic.casefold() not in seen[kind_index]:
                topics[kind_index].append(topic)
                seen[kind_index].add(topic.casefold())
            elif topic:
                num_refused += 1
    return topics, num_refused


def _is_topic(text: str) -> bool:
    return TOPIC.fullmatch(text) is not None and len(text.split()) <= MAX_TOPIC_WORDS
