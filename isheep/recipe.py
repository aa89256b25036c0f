"""The recipe: what a run does, as one typed object. recipe_files.py reads it from YAML."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from isheep import prompts
from isheep.engines import Sampling

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]
KeyPath = tuple[str | int, ...]  # of a key in a recipe: ("filters", 0, "criteria")

HERE = Path(__file__).parent
PACKAGED_SEEDS = {"isheep": HERE / "seeds" / "seed_tasks.jsonl", "lamb": HERE / "lamb" / "seed_tasks.jsonl"}


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Synthesis(Section):
    """How new instructions are written (Algorithm 1, line 3)."""

    tasks: Count = 10_000  # |P^t|
    examples: Count = 5  # seed tasks in the prompt
    rules: bool = True  # Self-Instruct's rules, on instructions and on pairs
    novelty: Annotated[float, Field(gt=0, le=1)] | None = (
        0.7  # ROUGE-L F at most this against everything known; null: not asked
    )
    size: Count = 16  # prompts in a batch, all with the same examples
    budget: Count | None = None  # prompts at most; null: synthesize.PROMPTS_PER_TASK a task
    chat: bool = False  # the prompt as a chat turn, or as plain text
    sampling: Sampling = Sampling()


class Response(Section):
    """How instructions are answered (Algorithm 1, line 4)."""

    prompt: Literal["chat", "plain"] = "chat"
    size: Count = 64
    sampling: Sampling = Sampling()


class Assessment(Section):
    """How a model rates pairs (Algorithm 1, line 6; Appendix A). `prompt` is a file of prompts/ or a path."""

    prompt: str = "combined"
    criteria: Names = ("quality", "following")
    judge: Literal["current", "base"] = "current"  # the paper's Algorithm 1; the released code
    read: Literal["generate"] = "generate"
    chat: bool = False
    size: Count = 64
    sampling: Sampling = Sampling()


class Score(Section):
    """Keep a pair whose grades reach C: `at_least` (Algorithm 1) or `above` (Figure 3), for each of `criteria`."""

    kind: Literal["score"]
    at_least: float | None = None
    above: float | None = None
    criteria: Names | None = None  # null: every criterion of the assessment

    @model_validator(mode="after")
    def one_threshold(self) -> "Score":
        if (self.at_least is None) == (self.above is None):
            raise ValueError("give exactly one of at_least and above")
        return self


class Contamination(Section):
    """Drop a pair whose task is, word for word, a prompt of one of the recipe's benchmarks."""

    kind: Literal["contamination"]


Filter = Annotated[Score | Contamination, Field(discriminator="kind")]


class Lora(Section):
    """Adapters on all linear layers (Appendix E)."""

    rank: Count = 8
    alpha: Count = 16
    dropout: Share = 0.05


class Training(Section):
    """SFT(M^base, D^t) (Algorithm 1, line 8). The defaults are Appendix E's."""

    start: Literal["base"] = "base"
    data: Literal["last"] = "last"
    lora: Lora = Lora()
    epochs: Count = 2
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    batch: Count = 16  # rows in an optimizer step
    cutoff: Annotated[int, Field(ge=8)] = 1024  # tokens
    at_most: Annotated[int, Field(ge=2)] | None = 3000  # rows, held out ones included
    held_out: Share = 0.1
    eval_every: Count = 100  # optimizer steps
    keep: Literal["best", "last"] = "best"  # the checkpoint with the lowest held-out loss, or the last


class Machine(Section):
    """How a run computes, not what; the only section that a resumed run may change."""

    engine: Literal["transformers"] = "transformers"
    trainer: Literal["peft"] = "peft"
    threads: Count | None = None
    device: str | None = None  # such as cpu or cuda:0; null: CUDA where there is one
    batch: Count = 128  # prompts that the engine reads at once
    rows: Count | None = None  # rows that the trainer reads at once, a divisor of training.batch; null: all of it


class Recipe(Section):
    """One experiment: Algorithm 1 and its settings."""

    model: str  # M^base: "lamb", a folder, or a name on the Hub
    chat: Literal["qwen", "llama3", "tokenizer"] = "tokenizer"  # Appendix E's two, or the tokenizer's own
    seed_tasks: str = "isheep"  # "isheep", "lamb", or a file
    language: Literal["en", "any"] = "en"
    iterations: Count = 3  # T
    seed: int = 42
    synthesis: Synthesis = Synthesis()
    response: Response = Response()
    assessment: Assessment | None = Assessment()
    filters: tuple[Filter, ...] = (Score(kind="score", at_least=8),)
    training: Training = Training()
    evaluation: tuple[Literal["lamb"], ...] = ()
    machine: Machine = Machine()

    @property
    def seeds(self) -> Path:
        """The file of seed tasks."""
        return PACKAGED_SEEDS.get(self.seed_tasks, Path(self.seed_tasks))


def conflicts(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """What single keys can't show: (the key's path, what is wrong with it in this recipe)."""
    if recipe.machine.rows and recipe.training.batch % recipe.machine.rows:
        yield ("machine", "rows"), f"{recipe.machine.rows} does not divide training.batch {recipe.training.batch}"
    criteria = recipe.assessment.criteria if recipe.assessment else ()
    if recipe.assessment:
        known = prompts.load(recipe.assessment.prompt)
        for name in criteria:
            if name not in known:
                wrong = f"prompt {recipe.assessment.prompt!r} has no criterion {name!r}, only {', '.join(known)}"
                yield ("assessment", "criteria"), wrong
            for hole in ("{instruction}", "{output}"):
                if name in known and hole not in known[name]:
                    paper = "; {output_data}, as the paper spells it, is not filled" * ("{output_data}" in known[name])
                    yield ("assessment", "prompt"), f"{name!r} in {recipe.assessment.prompt!r} has no {hole}{paper}"
    for place, score in enumerate(recipe.filters):
        if isinstance(score, Contamination):
            if not recipe.evaluation:
                yield ("filters", place), "contamination needs a benchmark in evaluation, and this recipe has none"
            continue
        if not recipe.assessment:
            yield ("filters", place), "a score filter needs an assessment, and this recipe has none"
        for name in score.criteria or ():
            if recipe.assessment and name not in criteria:
                yield ("filters", place, "criteria"), f"{name!r} is not rated, only {', '.join(criteria)}"
