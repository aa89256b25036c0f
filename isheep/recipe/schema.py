"""The recipe: what a run does, as one typed object. recipe_files.py reads it from YAML."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from isheep import prompts
from isheep.filters import Filter
from isheep.filters.score import ScoreFilter
from isheep.recipe.benchmark_names import benchmark_label, check_benchmark_name
from isheep.recipe.packaged import PACKAGED_SEEDS
from isheep.records import Count, Names, Sampling, Settings

Share = Annotated[float, Field(ge=0, lt=1)]
Price = Annotated[float, Field(ge=0)]

RATING_SCALE = range(1, 11)  # that a rating may have
EXAMPLES = 6  # seed tasks in a prompt of response.prompt: instances, where a recipe gives no number


CHAT_TEMPLATES = ("qwen", "llama3", "tokenizer")


def _check_chat_template(value: str) -> str:
    if value not in CHAT_TEMPLATES and not prompts.is_jinja_text(value):
        raise ValueError(f"take one of {', '.join(CHAT_TEMPLATES)}, or the Jinja text of a template; found {value!r}")
    return value


class TopicSettings(Settings):
    """Topic-guided red-teaming beside prompts of seed tasks (Dromedary, Sun et al. 2023; isheep/topics.py)."""

    file: str = "dromedary/topics"  # kinds of questions, their first topics and worked instructions
    share: Annotated[float, Field(gt=0, le=1)] = 0.25  # of the prompts
    rounds: Count = 4  # prompts for new topics, for each kind


class Synthesis(Settings):
    """How new instructions are written (Algorithm 1, line 3)."""

    tasks: Count = 10_000  # |P^t|
    examples: Count = 5  # tasks in the prompt, from the seeds
    generated: Annotated[int, Field(ge=0)] = 0  # up to so many of them from what this iteration has written so far
    inputs: bool = True  # each with its input; false: instructions alone, as Self-Instruct's own pipeline has them
    rules: bool = True  # Self-Instruct's rules, on instructions and on pairs
    novelty: Annotated[float, Field(gt=0, le=1)] | None = (
        0.7  # ROUGE-L F at most this against everything known; null: not asked
    )
    batch_size: Count = 16  # prompts in a batch, all with the same examples
    budget: Count | None = None  # prompts at most; null: synthesize.PROMPTS_PER_TASK a task
    prompt: str | dict[str, str] | None = None
    """The few-shot prompt: a path of a YAML file, or the texts `meta`, `block` and `open` themselves; null: that of
    isheep for `inputs`."""
    chat: bool = False  # the prompt as a chat turn, or as plain text
    topics: TopicSettings | None = None  # null: every prompt shows seed tasks
    tasks_of: Count | None = None  # an earlier iteration's tasks again; null: new ones
    sampling: Sampling = Sampling()


class Response(Settings):
    """How instructions are answered (Algorithm 1, line 4).

    `prompt` is the instruction as a chat turn ("chat") or as plain text ("plain"), or a file of prompts/, a path or
    the texts themselves: an answer under principles, with thoughts before it, or one that is asked for in other words
    (prompts/forms.py). Or it is "instances", Self-Instruct's own way (Wang et al. 2023, Section 2.2; instances.py): the
    model says of each instruction whether it is classification, and writes an input with the output, the output first
    where it is.
    """

    prompt: str | dict[str, str] = "chat"
    examples: Annotated[int, Field(ge=2)] | None = None  # seed tasks in a prompt of `instances`; null: EXAMPLES
    batch_size: Count = 64
    sampling: Sampling = Sampling()

    @property
    def shown(self) -> int:
        """The seed tasks in a prompt of `instances`, 0 where there are no such prompts."""
        return (self.examples or EXAMPLES) if self.prompt == "instances" else 0


class Assessment(Settings):
    """How a model rates pairs (Algorithm 1, line 6; Appendix A). `prompt` is a file of prompts/, a path, or the
    texts themselves by criterion.

    `read: generate` reads the score in what the judge writes. `read: expected` writes nothing: the expected value over
    the probabilities of the ten scores (assess.expected), in one pass over the prompt; means are seldom
    near 1 or 10, so it wants thresholds of its own. `opening` is for it: what stands before the score in a reply, such
    as " <" where the prompt's examples write <8>; null: a space, nothing in a chat turn.
    """

    prompt: str | dict[str, str] = "combined"
    criteria: Names = ("quality", "following")
    judge: Literal["current", "base"] = "current"  # the paper's Algorithm 1; the released code
    read: Literal["generate", "expected"] = "generate"
    opening: str | None = None
    chat: bool = False
    batch_size: Count = 64
    sampling: Sampling = Sampling()


class Lora(Settings):
    """Adapters on all linear layers (Appendix E)."""

    rank: Count = 8
    alpha: Count = 16
    dropout: Share = 0.05


class Training(Settings):
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
    batch_size: Count = 16  # rows in an optimizer step
    cutoff: Annotated[int, Field(ge=8)] = 1024  # tokens
    max_steps: Count | None = None  # exactly so many optimizer steps, in as many epochs as they take; null: epochs
    max_rows: Annotated[int, Field(ge=2)] | None = 3000  # rows, held out ones included; null: all
    num_rows: Annotated[int, Field(ge=2)] | None = None  # exactly so many of them, drawn; fewer are refused
    held_out: Share = 0.1
    eval_every: Count = 100  # optimizer steps
    keep: Literal["best", "last"] = "best"  # the checkpoint with the lowest held-out loss, or the last
    quantize: Literal["nf4"] | None = None  # QLoRA (Dettmers et al. 2023): the frozen base in 4 bits; needs CUDA


class JudgeSettings(Settings):
    """Who judges answers: a model at an OpenAI-compatible endpoint (machine.judging), or with `local` one of ours.

    `model` is its name at the endpoint (null: the benchmark's own judge), or a run folder, an iteration's folder in
    one, a checkpoint. `parameters` go over those of the original's requests; null takes one out. `config` names a
    folder of AlpacaEval's evaluators_configs, where it is not the one that the benchmark's version uses.
    """

    model: str | None = None
    local: bool = False
    parameters: dict[str, bool | int | float | str | None] = {}
    config: str | None = None


class BenchmarkSettings(Settings):
    """What every model is scored on. `data` is the user's own copy of its file or folder, where it needs one.

    `judge` is for benchmarks that ask one. `max_tokens` bounds an answer where it is not the original's bound.
    """

    name: Annotated[str, AfterValidator(check_benchmark_name)]
    data: str | None = None
    judge: JudgeSettings | None = None
    max_tokens: Count | None = None

    @property
    def label(self) -> str:
        """The benchmark's name in tables and in file names."""
        return benchmark_label(self.name)


def _named(value: Any) -> Any:
    """A benchmark's name alone stands for the benchmark."""
    return {"name": value} if isinstance(value, str) else value


class Stop(Settings):
    """End before T where `patience` iterations in a row bring no new best (Table 1's "stagnates or diminishes").

    Judged on the benchmark's validation part, none of whose items is in the part that is reported.
    """

    benchmark: Annotated[str, AfterValidator(check_benchmark_name)]
    patience: Count = 1


class Calls(Settings):
    """How an OpenAI-compatible server is asked. OPENAI_API_KEY is the key."""

    max_in_flight: Count = 8
    timeout: Annotated[float, Field(gt=0)] = 120  # seconds without a word from the server
    attempts: Count = 6  # at a call that got 429, 5xx or no answer
    retry_wait: Annotated[float, Field(ge=0)] = 1  # seconds before the second attempt, twice that before the third, ...


class Judging(Calls):
    """How a judge at an endpoint is asked. OPENAI_BASE_URL says where."""

    price: tuple[Price, Price] | None = None  # of a million tokens read and of a million written; null: unknown


class ServerSettings(Calls):
    """The server that generates where `engine` is openai, with the recipe's model on it (docs/engines.md)."""

    url: str | None = None  # such as http://127.0.0.1:8000/v1; null: OPENAI_BASE_URL
    model: str | None = None  # what the server calls the recipe's model; null: the only one that it lists
    api: Literal["completions", "chat"] = "completions"  # chat: it reads conversations and puts its own template on
    context: Count | None = None  # tokens that it reads, the answer included; null: what it says, or the model's
    adapters: Literal["server", "transformers"] = "server"  # where M^1 and later models generate
    max_in_flight: Count = 32
    timeout: Annotated[float, Field(gt=0)] = 600


class VLLMSettings(Settings):
    """vLLM in a process beside this one, where `engine` is vllm (docs/engines.md)."""

    memory: Annotated[float, Field(gt=0, le=1)] = 0.9  # the share of a GPU's that it takes
    cache: Annotated[float, Field(gt=0)] | None = None  # GiB of keys and values; null: what is left of it; on CPU 2
    context: Count | None = None  # tokens that it reads, the answer included; null: the model's
    tensor_parallel: Count = 1  # GPUs that share the weights
    eager: bool = False  # no compiled graphs: starts sooner, writes more slowly; on CPU always
    adapters: Literal["lora", "merged"] = (
        "lora"  # merged: a whole checkpoint for each model, where LoRA can't be served
    )
    sleep: bool = False  # its weights wait in main memory while others compute, and it need not start again; CUDA only


class Machine(Settings):
    """How a run computes, not what; the only section that a resumed run may change (iterations may grow).

    More than one process trains where `gpus` or `nodes` says so, and each optimizer step still has
    `training.batch_size` rows (docs/scale.md).
    """

    engine: str = "transformers"
    vllm: VLLMSettings = VLLMSettings()
    server: ServerSettings = ServerSettings()
    trainer: str = "peft"
    threads: Count | None = None
    device: str | None = None  # such as cpu or cuda:0; null: CUDA where there is one
    engine_batch_size: Count = 128  # prompts that the engine reads at once
    replicas: Count = 1  # engines that share the stages' batches, in Ray's actors; each has `threads`, and a GPU
    ray: str | None = None  # auto, HOST:PORT or ray://HOST:PORT, where they are; null: a Ray of this process's own
    rows_per_process: Count | None = (
        None  # that a training process reads at once, a divisor of training.batch_size; null: its share
    )
    gpus: Count = 1  # that train on each node, with a process each; with device: cpu, processes on the CPU
    nodes: Count = 1  # that train, of a Slurm allocation
    strategy: Literal["ddp", "fsdp", "zero3"] = "ddp"  # a whole base on each GPU, or its weights in shards
    gradient_checkpointing: bool | None = None  # activations computed again, for memory; null: on CUDA
    packing: bool = False  # rows that are read at once as one sequence: no padding, but attention over all of it
    unsafe_code: bool = False  # run code that a model wrote where no sandbox holds too (--unsafe-code)
    judging: Judging = Judging()

    @property
    def processes(self) -> int:
        """That train together."""
        return self.gpus * self.nodes


SECTIONS_PER_ITERATION = (
    "synthesis",
    "response",
    "assessment",
    "filters",
    "training",
)  # what one iteration may do otherwise


class Recipe(Settings):
    """One experiment: Algorithm 1 and its settings.

    `iteration` maps t to what iteration t alone does otherwise: the keys of WITHIN, as in a file that is `like` this.
    """

    model: str  # M^base: "lamb", a folder, or a name on the Hub
    chat_template: Annotated[str, AfterValidator(_check_chat_template)] = "tokenizer"
    """Appendix E's "qwen" or "llama3", "tokenizer" for the tokenizer's own, or the Jinja text of a template."""
    seed_tasks: str = "isheep"  # "isheep", "lamb", or a file
    language: Literal["en", "any"] = "en"
    iterations: Count = 3  # T
    seed: int = 42
    synthesis: Synthesis = Synthesis()
    response: Response = Response()
    assessment: Assessment | None = Assessment()
    filters: tuple[Filter, ...] = (ScoreFilter(kind="score", at_least=8),)
    training: Training = Training()
    iteration: dict[Count, dict[str, Any]] = {}
    stop: Stop | None = None
    evaluation: tuple[Annotated[BenchmarkSettings, BeforeValidator(_named)], ...] = ()
    machine: Machine = Machine()

    @property
    def seeds(self) -> Path:
        """The file of seed tasks."""
        return PACKAGED_SEEDS.get(self.seed_tasks, Path(self.seed_tasks))

    def at(self, t: int) -> "Recipe":
        """The recipe as iteration t has it."""
        if t not in self.iteration:
            return self
        data = merge_settings(self.model_dump(mode="json", exclude={"iteration"}), self.iteration[t])
        return Recipe.model_validate_json(json.dumps(data), strict=True)

    @property
    def variants(self) -> list["Recipe"]:
        """The recipe, and what it is in each iteration that does something otherwise."""
        return [self, *(self.at(t) for t in self.iteration)]

    def own_prompts(self, sections: Iterable[str] = SECTIONS_PER_ITERATION) -> list[str]:
        """The prompt files of the user's own that some sections name."""
        by_section: dict[str, list[str | dict[str, str] | None]] = {
            "synthesis": [self.synthesis.prompt, self.synthesis.topics.file if self.synthesis.topics else None],
            "response": [self.response.prompt],
            "assessment": [self.assessment.prompt if self.assessment else None],
        }
        sources = [source for section in sections for source in by_section.get(section, [])]
        return [source for source in sources if isinstance(source, str) and prompts.is_user_file(source)]


def merge_settings(old: Any, new: Any) -> Any:
    """`new` over `old`: mappings key by key, everything else whole."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: merge_settings(old.get(key), value) for key, value in new.items()}}


def score_openings(settings: Assessment) -> list[str]:
    """What stands behind a rating prompt for each of the scores, where they are not generated."""
    opening = settings.opening
    if opening is None:
        opening = "" if settings.chat else " "
    return [f"{opening}{score}" for score in RATING_SCALE]
