"""Seed tasks and settings of a synthesis stage, and replies to its prompts."""

from isheep.recipe.schema import Synthesis
from isheep.records import Reply
from isheep.seeds import SeedTask

SEEDS = [
    SeedTask(id="s0", instruction="Name the capital of the given country.", input="France", output="Paris"),
    SeedTask(id="s1", instruction="Tell me why the sky is blue.", output="Light scatters."),
    SeedTask(
        id="s2",
        instruction="Sort these {words} by length.",
        input="fig\nbanana {k}\n\napple",
        output="fig apple banana",
    ),
    SeedTask(id="s3", instruction="Rewrite the sentence\n in the past tense:", input="I run.", output="I ran."),
]
SETTINGS = Synthesis(tasks=5, examples=2, batch_size=4, budget=40)


def reply(text: str, n: int = 0, finish: str = "stop") -> Reply:
    """Return the reply to prompt `n` of the first batch of iteration 1."""
    return Reply(id=f"t1-b0000-{n:02d}", text=text, finish=finish, tokens=len(text.split()))
