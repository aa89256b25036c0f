"""The recipe: what a run does, as one typed object. recipe_files.py reads it from YAML."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

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
    """How a model rates pairs (Algorithm 1, line 6; Appendix A). `prompt` is a file of prompts/ or a path.

    `read: generate` reads the score in what the judge writes. `read: expected` writes nothing: the expected value over
    the probabilities of the ten scores (assess.expected), in one pass over the prompt; means are seldom
    near 1 or 10, so it wants thresholds of its own. `opening` is for it: what stands before the score in a reply, such
    as " <" where the prompt's examples write <8>; null: a space, nothing in a chat turn.
    """

    prompt: str = "combined"
    criteria: Names = ("quality", "following")
    judge: Literal["current", "base"] = "current"  # the paper's Algorithm 1; the released code
    read: Literal["generate", "expected"] = "generate"
    opening: str | None = None
    chat: bool = False
    size: Count = 64
    sampling: Sampling = Sampling()


class Score(Section):
    """Keep a pair whose grades reach C: `at_least` (Algorithm 1) or `above` (Figure 3), for each of `criteria`."""

    kind: Literal["score"] = "score"
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


class Perplexity(Section):
    """Drop a pair that M^(t-1) itself finds unlikely (Section 4.3): a perplexity above `at_most`.

    "output" is the answer's after the prompt that it answers; "pair" is that of instruction, input and answer as one
    plain text (Table 11 asks for both; measure.py computes them).
    """

    kind: Literal["perplexity"] = "perplexity"
    at_most: Annotated[float, Field(gt=1)] = 50
    of: Annotated[tuple[Literal["output", "pair"], ...], Field(min_length=1)] = ("output", "pair")


class Density(Section):
    """Keep `keep` pairs of each cluster of representations (Section 4.3, K = 3000): k-means, not the paper's "KNN".

    `choose: random` is the paper's Density, `lowest_perplexity` its Density and PPL; `of` says whose perplexity.
    """

    kind: Literal["density"] = "density"
    clusters: Count = 3000
    keep: Count = 1
    choose: Literal["random", "lowest_perplexity"] = "random"
    of: Literal["output", "pair"] | None = None  # null: the output's

    @model_validator(mode="after")
    def one_meaning(self) -> "Density":
        if self.of and self.choose == "random":
            raise ValueError("of is for choose: lowest_perplexity, and choose is random")
        return self


class Random(Section):
    """Keep pairs drawn at random: `keep` of them, or `as_many_as` a score threshold would keep here (a control)."""

    kind: Literal["random"] = "random"
    keep: Count | None = None
    as_many_as: Score | None = None

    @model_validator(mode="after")
    def one_number(self) -> "Random":
        if (self.keep is None) == (self.as_many_as is None):
            raise ValueError("give exactly one of keep and as_many_as")
        return self


Filter = Annotated[Score | Contamination | Perplexity | Density | Random, Field(discriminator="kind")]


class Lora(Section):
    """Adapters on all linear layers (Appendix E)."""

    rank: Count = 8
    alpha: Count = 16
    dropout: Share = 0.05


class Training(Section):
    """SFT(M^base, D^t) (Algorithm 1, line 8). The defaults are Appendix E's.

    `start` and `data` are Section 4.5's settings: base and last (One_base), last and last (One_last: the adapter of
    M^(t-1) is trained further, its own weights, with a new optimizer), base and all (Total_base: D^1, ..., D^t).
    """

    start: Literal["base", "last"] = "base"
    data: Literal["last", "all"] = "last"
    lora: Lora = Lora()
    epochs: Count = 2
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    batch: Count = 16  # rows in an optimizer step
    cutoff: Annotated[int, Field(ge=8)] = 1024  # tokens
    max_steps: Count | None = None  # exactly so many optimizer steps, in as many epochs as they take; null: epochs
    at_most: Annotated[int, Field(ge=2)] | None = 3000  # rows, held out ones included; null: all
    rows: Annotated[int, Field(ge=2)] | None = None  # exactly so many of them, drawn; fewer are refused
    held_out: Share = 0.1
    eval_every: Count = 100  # optimizer steps
    keep: Literal["best", "last"] = "best"  # the checkpoint with the lowest held-out loss, or the last


class Benchmark(Section):
    """What every model is scored on. `data` is the user's own copy of its file or folder, where it needs one."""

    name: Literal["lamb", "ifeval"]
    data: str | None = None


def _named(value: Any) -> Any:
    """A benchmark's name alone stands for the benchmark."""
    return {"name": value} if isinstance(value, str) else value


class Stop(Section):
    """End before T where `patience` iterations in a row bring no new best (Table 1's "stagnates or diminishes").

    Judged on the benchmark's validation part, none of whose items is in the part that is reported.
    """

    benchmark: Literal["lamb"]
    patience: Count = 1


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
    stop: Stop | None = None
    evaluation: tuple[Annotated[Benchmark, BeforeValidator(_named)], ...] = ()
    machine: Machine = Machine()

    @property
    def seeds(self) -> Path:
        """The file of seed tasks."""
        return PACKAGED_SEEDS.get(self.seed_tasks, Path(self.seed_tasks))


def conflicts(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """What single keys can't show: (the key's path, what is wrong with it in this recipe)."""
    training = recipe.training
    if training.rows and training.at_most and training.rows > training.at_most:
        yield ("training", "rows"), f"{training.rows} is more than training.at_most, {training.at_most}"
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
        if recipe.assessment.opening is not None and recipe.assessment.read == "generate":
            yield ("assessment", "opening"), "it is for read: expected, and this recipe reads what the judge generates"
    for place, one in enumerate(recipe.filters):
        path: KeyPath = ("filters", place)
        if isinstance(one, Contamination) and not recipe.evaluation:
            yield path, "contamination needs a benchmark in evaluation, and this recipe has none"
        score = one.as_many_as if isinstance(one, Random) else one
        if isinstance(score, Score):
            path = (*path, "as_many_as") if isinstance(one, Random) else path
            if not recipe.assessment:
                yield path, "a score filter needs an assessment, and this recipe has none"
            for name in score.criteria or ():
                if recipe.assessment and name not in criteria:
                    yield (*path, "criteria"), f"{name!r} is not rated, only {', '.join(criteria)}"
        keeps, tasks = _keeps(one), recipe.synthesis.tasks
        if keeps is not None and keeps >= tasks:
            yield path, f"it keeps up to {keeps} pairs, and synthesis.tasks is {tasks}: nothing is left to drop"


def _keeps(one: Filter) -> int | None:
    """The most pairs that a filter keeps, None where it depends on them."""
    if isinstance(one, Density):
        return one.clusters * one.keep
    return one.keep if isinstance(one, Random) else None
