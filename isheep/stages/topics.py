"""Topic-guided red-teaming, a part of synthesis (Dromedary, Sun et al. 2023, Section 3.1).

The model writes topics for kinds of questions that are hard to get right, then instructions of a kind about a topic.
The texts are those of a guide (forms.Guide).
"""

import random
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from isheep import prompts
from isheep.batching import derive_seed, ordered_map
from isheep.engines import Engine
from isheep.models.chat_template import ChatTemplate
from isheep.prompts.forms import QuestionKind, TopicGuide
from isheep.recipe.schema import Synthesis
from isheep.records import Reply
from isheep.rundir.folder import Batches

TOPIC = re.compile(r"(?=.*[^\W\d_])\w[\w ,.'’&/()-]{0,59}")  # with a letter; no mark that a prompt or a template uses
MOST_WORDS = 6  # in a topic


class TopicPrompts(NamedTuple):
    """A guide, and for each of its kinds all topics that are known: the guide's and those that a model wrote."""

    guide: TopicGuide
    known: Sequence[Sequence[str]]
    share: float
    examples: int

    def prompts(self, start: int, end: int, place: int) -> list[str]:
        """The topic-guided ones among an iteration's prompts `start` to `end` - 1: `share` of them, evenly spread.

        All show the same worked examples, then a kind and a topic, drawn for each from the seed `place`.
        """
        number = int(end * self.share) - int(start * self.share)
        rng = random.Random(place)
        shown = [_block(self.guide, k, kind) for k, kind in enumerate(rng.sample(self.guide.kinds, self.examples), 1)]
        head = f"{self.guide.meta}\n\n" + "\n".join([*shown, ""])
        drawn = [rng.randrange(len(self.known)) for _ in range(number)]
        k = str(self.examples + 1)
        return [
            head
            + prompts.fill_template(
                self.guide.open, k=k, kind=self.guide.kinds[n].kind, topic=rng.choice(self.known[n])
            )
            for n in drawn
        ]


def _block(guide: TopicGuide, k: int, kind: QuestionKind) -> str:
    return prompts.fill_template(
        guide.block, k=str(k), kind=kind.kind, topic=kind.topics[0], instruction=kind.instruction
    )


def generate_topics(
    engine: Engine, guide: TopicGuide, chat: ChatTemplate, settings: Synthesis, rounds: int, iteration: int, seed: int
) -> Batches[Reply]:
    """The replies that are still owed where a model continues the guide's lists of topics, `rounds` times.

    A batch is one reply for each kind, in their order. A reply ends with its line.
    """
    sampling = settings.sampling.model_copy(update={"stop": (chat.end, "\n", *settings.sampling.stop)})
    asked = [
        prompts.fill_template(guide.ask_topics, kind=kind.kind, topics="; ".join(kind.topics)) for kind in guide.kinds
    ]
    asked = [chat.prompt(text) for text in asked] if settings.chat else asked

    def made(r: int) -> list[Reply]:
        written = engine.generate(asked, sampling, derive_seed(seed, iteration, "topics", r))
        return [
            Reply(id=f"t{iteration}-k{r:02d}-{i:02d}", text=c.text, finish=c.finish, tokens=c.tokens)
            for i, c in enumerate(written)
        ]

    def batches(done: Sequence[Reply]) -> Iterator[list[Reply]]:
        return ordered_map(made, range(len(done) // len(asked), rounds), engine.at_once)

    return batches


def parse_topics(replies: Sequence[Reply], guide: TopicGuide) -> tuple[list[list[str]], int]:
    """All topics by kind, the guide's first, and how many written ones were refused. Pure.

    A topic is new to its kind whatever its case and spacing, has one to `MOST_WORDS` words, and no mark that could end
    a prompt; the last one of a reply that was cut off is refused.
    """
    found = [list(kind.topics) for kind in guide.kinds]
    known = [{topic.casefold() for topic in topics} for topics in found]
    refused = 0
    for place, reply in enumerate(replies):
        n = place % len(found)
        parts = [" ".join(part.split()).rstrip(" .") for part in reply.text.split(";")]
        cut = len(parts) - 1 if reply.finish == "length" else len(parts)
        for i, topic in enumerate(parts):
            if (
                i < cut
                and TOPIC.fullmatch(topic)
                and len(topic.split()) <= MOST_WORDS
                and topic.casefold() not in known[n]
            ):
                found[n].append(topic)
                known[n].add(topic.casefold())
            else:
                refused += bool(topic)
    return found, refused
