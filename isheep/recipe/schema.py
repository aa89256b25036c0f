"""The recipe: what a run does, as one typed object. A field's docstring is its description in docs/recipe.md."""

import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from isheep import prompts
from isheep.errors import quote_path
from isheep.filters import Filter
from isheep.filters.score import ScoreFilter
from isheep.prompts import PromptSource
from isheep.recipe.evaluation import BenchmarkSettings, RatingJudge, Stop, StopRule, entry_of
from isheep.recipe.machine import Machine
from isheep.recipe.packaged import PACKAGED_SEEDS, SYNTHESIS_PROMPTS
from isheep.recipe.paths import PathText
from isheep.records import Count, Names, Sampling, Settings
from isheep.text.novelty import Language

Share = Annotated[float, Field(ge=0, lt=1)]

NOT_SELF = "not self-assessment"
"""What tables say of ratings by another model than one of the run."""

# The scores that a rating may have.
RATING_SCALE = range(1, 11)
# The seed tasks in a prompt of response.prompt: instances, unless the recipe gives a number.
DEFAULT_INSTANCE_EXAMPLES = 6

MAX_ITERATIONS = 1000
"""The most iterations: a plan, a report and a status have a line for each."""

CHAT_TEMPLATES = ("qwen", "llama3", "tokenizer")
"""The chat templates that a recipe can name: Appendix E's two, and the tokenizer's own."""


def _check_chat_template(value: str) -> str:
    if value not in CHAT_TEMPLATES and not prompts.is_jinja_text(value):
        names = ", ".join(CHAT_TEMPLATES)
        choices = f"one of {names}, a .jinja file, or the Jinja text of a template"
        raise ValueError(f"take {choices}; found {quote_path(value)}")
    return value


class TopicSettings(Settings):
    """Topic-guided red-teaming: some synthesis prompts ask for a task about a topic (Dromedary, Sun et al. 2023)."""

    file: str = "dromedary/topics"
    """The guide: kinds of questions, topics, and a worked instruction for each. A packaged name or a .yaml file."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """The share of synthesis prompts that are about a topic."""
    rounds: Count = 4
    """The number of prompts for new topics, for each kind of question."""


class Synthesis(Settings):
    """How new instructions are written (Algorithm 1, line 3)."""

    tasks: Count = 10_000
    """The number of tasks to write in an iteration, |P^t|."""
    prompt: str | dict[str, str] | None = None
    """The in-context prompt: a packaged name, a .yaml file of yours, or a mapping with `meta`, `block` and `open`
    (docs/prompts.md); null: the packaged prompt that fits `inputs` and the language."""
    examples: Count = 5
    """The number of example tasks in the prompt, drawn from the seed tasks (5 in the released code)."""
    generated: Annotated[int, Field(ge=0)] = 0
    """How many of the examples may be tasks that this iteration has already written (Self-Instruct: 2 of 8)."""
    inputs: bool = True
    """Whether the examples are shown with their inputs; false: instructions alone, as in Self-Instruct."""
    rules: bool = True
    """Whether Self-Instruct's rules drop instructions and pairs (Wang et al. 2023, Section 2.2)."""
    novelty: Annotated[float, Field(gt=0, le=1)] | None = 0.7
    """The highest ROUGE-L F that a new instruction may have with any known one; null: not checked."""
    novelty_chunk: Count | None = None
    """The number of new tasks that are compared with each other: after so many, novelty forgets them and keeps the seed
    tasks alone (the released code: about 100); null: all tasks of the iteration."""
    batch_size: Count = 16
    """The number of prompts in a batch."""
    examples_for: Literal["batch", "prompt"] = "batch"
    """What examples are drawn for: "batch", so that its prompts show the same examples, which an engine then computes
    once; or every "prompt" (the released code)."""
    budget: Count | None = None
    """The largest number of prompts in an iteration; null: a multiple of `tasks` (stages/synthesize.py)."""
    chat: bool = False
    """Whether the prompt is a turn in the chat template rather than plain text."""
    topics: TopicSettings | None = None
    """Prompts about topics; null: every prompt shows seed tasks."""
    tasks_of: Count | None = None
    """The earlier iteration whose tasks are used again; null: new tasks are written."""
    sampling: Sampling = Sampling()
    """How the tokens of new instructions are drawn."""


class Response(Settings):
    """How instructions are answered (Algorithm 1, line 4)."""

    prompt: str | dict[str, str] = "chat"
    """How an answer is asked for. "chat": the instruction as a chat turn. "plain": as plain text. "instances":
    Self-Instruct's own way (Wang et al. 2023, Section 2.2), in which the model first says whether an instruction is
    classification, and then writes an input and an output for it. Or a packaged name such as "principles", a .yaml
    file of yours, or a mapping (docs/prompts.md)."""
    examples: Annotated[int, Field(ge=2)] | None = None
    """The number of seed tasks in a prompt of `prompt: instances`; null: 6."""
    turns: Literal[1, 2] = 1
    """The number of turns of a dialogue. 2: after each answer the model writes what the user asks next, and answers
    that, too. The second turn is a pair of its own, which is rated, filtered and trained on with the first one before
    it (docs/method.md)."""
    batch_size: Count = 64
    """The number of instructions that are answered in a batch."""
    sampling: Sampling = Sampling()
    """How the tokens of answers are drawn."""

    @property
    def num_instance_examples(self) -> int:
        """The number of seed tasks in a prompt of `instances`; 0 for other prompts."""
        return (self.examples or DEFAULT_INSTANCE_EXAMPLES) if self.prompt == "instances" else 0


class Assessment(Settings):
    """How a model rates the pairs (Algorithm 1, line 6; Appendix A)."""

    prompt: str | dict[str, str] = "combined"
    """The rating prompts by criterion: a packaged name ("simple", "icl" or "combined", Table 3), a .yaml file of yours,
    or a mapping (docs/prompts.md)."""
    criteria: Names = ("quality", "following")
    """The criteria that are rated (Section 3.2), which are keys of the prompt."""
    judge: Literal["current", "base"] | RatingJudge = "current"
    """The model that rates: M^(t-1) (Algorithm 1), or the base in every iteration (the released code). Or another
    model, which is no self-assessment."""
    read: Literal["generate", "expected", "constrained"] = "generate"
    """How a score is read. "generate": from the text that the judge writes. "constrained": it is drawn among the ten
    scores alone, by their probabilities and `sampling`, so that every rating can be read; the judge then writes its
    explanation. "expected": as the expected value over the probabilities of the ten scores, in one pass without
    generation. Expected values are seldom near 1 or 10, so they need thresholds of their own."""
    explain: bool = True
    """Whether the judge writes its explanation after a constrained score. false saves most of the time and changes no
    score, because the explanation follows it."""
    on_unreadable: Literal["continue", "constrain", "stop"] = "continue"
    """What the run does if more than half of an iteration's first batch of ratings can't be read, after it has said so:
    "continue", "stop" with an error, or "constrain": rate these and all following pairs with `read: constrained`."""
    opening: str | None = None
    """The text before the score in a reply, for `read: expected` and `constrained`, such as " <" if the prompt's
    examples write <8>; null: a space, or nothing in a chat turn."""
    chat: bool = False
    """Whether the rating prompt is a turn in the chat template rather than plain text."""
    batch_size: Count = 64
    """The number of pairs that are rated in a batch."""
    sampling: Sampling = Sampling()
    """How the tokens of ratings are drawn."""

    @property
    def judge_note(self) -> str | None:
        """A note that another model than one of the run rates; None if the current model or the base does."""
        if isinstance(self.judge, str):
            return None
        return f"rated by {self.judge.model} {'on this machine' if self.judge.local else 'at an endpoint'}: {NOT_SELF}"

    @property
    def is_at_endpoint(self) -> bool:
        """Whether the judge is a model at an endpoint."""
        return not isinstance(self.judge, str) and not self.judge.local

    @property
    def reads_options(self) -> bool:
        """Whether ratings are, or may be, read from the probabilities of the scores as the next text."""
        return self.read != "generate" or self.may_constrain

    @property
    def may_constrain(self) -> bool:
        """Whether scores are drawn among the allowed ones, or would be if ratings can't be read."""
        return self.read == "constrained" or self.on_unreadable == "constrain"

    @property
    def writes_text(self) -> bool:
        """Whether the judge writes text: the whole rating, or the explanation after a constrained score."""
        return self.read == "generate" or (self.read == "constrained" and self.explain)


class Lora(Settings):
    """LoRA adapters on all linear layers (Appendix E)."""

    rank: Count = 8
    """The rank of the adapters (Appendix E)."""
    alpha: Count = 16
    """The scaling numerator alpha; the adapter's output is multiplied by alpha / rank."""
    dropout: Share = 0.05
    """The dropout before the adapters, in training."""


class Training(Settings):
    """Supervised fine-tuning, SFT(M^base, D^t) (Algorithm 1, line 8). The defaults are Appendix E's."""

    start: Literal["base", "last"] = "base"
    """The model that is trained: the base, or M^(t-1) (Section 4.5). "last" goes on training the weights of its
    adapter, with a new optimizer."""
    data: Literal["last", "all"] = "last"
    """The data: D^t, or D^1 to D^t (Section 4.5's Total_base)."""
    lora: Lora = Lora()
    """The adapters."""
    epochs: Count = 2
    """The number of passes over the data (Appendix E)."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """The highest learning rate (Appendix E)."""
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate changes after the warmup (Appendix E: cosine)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    """The number of optimizer steps in which the learning rate rises to its highest value (Appendix E)."""
    batch_size: Count = 16
    """The number of rows in an optimizer step, over all processes (Appendix E)."""
    cutoff: Annotated[int, Field(ge=8)] = 1024
    """The number of tokens after which a row is cut off (Appendix E)."""
    max_steps: Count | None = None
    """The exact number of optimizer steps, in as many epochs as they need; null: `epochs` decides."""
    steps_of: PathText | None = None
    """The run with whose compute a recipe of one iteration is matched: it trains as many optimizer steps as that run
    has trained in all its iterations. The name of another setting of the sweep (with random seeds, its run with the
    same seed), or a run folder. The steps are known when that run has ended, and are then written into recipe.yaml as
    `max_steps`. null: not matched."""
    max_rows: Annotated[int, Field(ge=2)] | None = 3000
    """The largest number of rows, held-out ones included (Appendix E); null: all."""
    num_rows: Annotated[int, Field(ge=2)] | None = None
    """The exact number of rows, drawn at random; it is an error if there are fewer. null: not fixed."""
    held_out: Share = 0.1
    """The share of rows that are held out to measure the loss (Appendix E). The turns of a dialogue stay together."""
    eval_every: Count = 100
    """The number of optimizer steps between two measurements of the held-out loss (Appendix E)."""
    keep: Literal["best", "last"] = "best"
    """The checkpoint that is kept: the one with the lowest held-out loss (Appendix E), or the last one."""
    order: Literal["length", "random"] = "length"
    """The order of the rows in an epoch. "length": shuffled, then sorted by length within a few batches, so that little
    is padded. "random": shuffled alone (LLaMA-Factory)."""
    weigh: Literal["tokens", "rows"] = "tokens"
    """What weighs the same in the loss of an optimizer step, and in the held-out loss: every token, or every row, as
    with Appendix E's one row at a time on each GPU. "rows" computes one row at a time."""
    end: Literal["template", "tokenizer"] = "template"
    """The token that ends an answer. "template": the chat template's, and none after an answer that was cut off at
    max_tokens. "tokenizer": the tokenizer's end of sequence after every answer (LLaMA-Factory with Appendix E's
    templates)."""
    quantize: Literal["nf4"] | None = None
    """Hold the frozen base in 4 bits (QLoRA, Dettmers et al. 2023); needs CUDA and bitsandbytes. null: no."""


SECTIONS_PER_ITERATION = ("synthesis", "response", "assessment", "filters", "training")
"""The sections that may differ between iterations."""


class Recipe(Settings):
    """One experiment: Algorithm 1 and its settings."""

    model: PathText
    """The base model M^base (Algorithm 1, line 1): "lamb" or another packaged lamb (docs/lamb.md), a folder, or a name
    on the Hugging Face Hub."""
    chat_template: Annotated[str, AfterValidator(_check_chat_template)] = "tokenizer"
    """The chat template: qwen or llama3 (Appendix E), tokenizer (the tokenizer's own), a .jinja file of yours, or the
    Jinja text itself (docs/prompts.md)."""
    date: datetime.date | None = None
    """The date that a chat template sees which asks for it, such as 2026-07-26; null: the day on which the run began,
    if the template reads the clock (docs/models.md)."""
    seed_tasks: PathText = "isheep"
    """The seed tasks P^seed: "isheep" (175 tasks, as many as the paper has), "isheep-es" (40, in Spanish), "isheep-zh"
    (40, in Chinese), "lamb", or a file (docs/seeds.md)."""
    language: Language = "en"
    """The language of the tasks; any: another one, or several. It decides on the packaged synthesis prompt, what counts
    as a word, which words and beginnings the rules reject, and in which script an instruction must be
    (docs/languages.md)."""
    iterations: Annotated[int, Field(ge=1, le=MAX_ITERATIONS)] = 3
    """The number of iterations, T (Algorithm 1, line 2)."""
    seed: Annotated[int, Field(ge=0)] = 42
    """The random seed."""
    synthesis: Synthesis = Synthesis()
    """The settings for writing new instructions (Algorithm 1, line 3)."""
    response: Response = Response()
    """The settings for answering them (Algorithm 1, line 4)."""
    assessment: Assessment | None = Assessment()
    """The settings for rating the pairs (Algorithm 1, line 6); null: pairs are not rated."""
    filters: tuple[Filter, ...] = (ScoreFilter(kind="score", at_least=8),)
    """The filters (Algorithm 1, line 7), in this order: each sees only the pairs that the filters before it kept."""
    training: Training = Training()
    """The settings for training the next model (Algorithm 1, line 8)."""
    iteration: dict[Count, dict[str, Any]] = {}
    """What single iterations do differently: the number of an iteration to sections, which are laid over the recipe."""
    stop: Stop | None = None
    """When to end before T iterations; null: never."""
    evaluation: tuple[Annotated[BenchmarkSettings, BeforeValidator(entry_of)], ...] = ()
    """The benchmarks that every model is evaluated on: names, or entries."""
    machine: Machine = Machine()
    """The settings that say how the run computes, not what."""

    @property
    def seeds(self) -> Path:
        """The file of seed tasks."""
        return PACKAGED_SEEDS.get(self.seed_tasks, Path(self.seed_tasks))

    @property
    def max_pairs(self) -> int:
        """The largest number of pairs of an iteration: one for each turn of each task."""
        return self.synthesis.tasks * self.response.turns

    @property
    def synthesis_prompt(self) -> PromptSource | None:
        """The texts of the synthesis prompt: the recipe's, or the packaged ones; None for instructions alone."""
        if self.synthesis.prompt is not None or not self.synthesis.inputs:
            return self.synthesis.prompt
        return SYNTHESIS_PROMPTS.get(self.language, SYNTHESIS_PROMPTS["en"])

    @property
    def chat_arguments(self) -> tuple[Any, ...]:
        """The arguments of load_chat_template: the chat template, the model, and the date if there is one."""
        names = (self.chat_template, self.model)
        return (*names, self.date) if self.date else names

    def at(self, iteration: int) -> "Recipe":
        """Return the recipe as an iteration has it."""
        if iteration not in self.iteration:
            return self
        data = merge_settings(self.model_dump(mode="json", exclude={"iteration"}), self.iteration[iteration])
        return Recipe.model_validate_json(json.dumps(data), strict=True)

    @property
    def stop_rule(self) -> StopRule | None:
        """The rule that ends the run when iterations bring no gain any more; None if the recipe has none."""
        return self.stop.rule if self.stop else None

    @property
    def judge_note(self) -> str | None:
        """A note on the judges that are no models of the run, over all iterations; None if there are none."""
        notes = (variant.assessment.judge_note for variant in self.variants if variant.assessment)
        return "; ".join(dict.fromkeys(note for note in notes if note)) or None

    @property
    def variants(self) -> list["Recipe"]:
        """The recipe, and the recipe as each iteration has it that differs."""
        return [self, *(self.at(number) for number in self.iteration)]

    def own_prompts(self, sections: Iterable[str] = SECTIONS_PER_ITERATION) -> list[str]:
        """Return the prompt files of the user's own that some sections name."""
        by_section: dict[str, list[str | dict[str, str] | None]] = {
            "synthesis": [self.synthesis.prompt, self.synthesis.topics.file if self.synthesis.topics else None],
            "response": [self.response.prompt],
            "assessment": [self.assessment.prompt if self.assessment else None],
        }
        sources = [source for section in sections for source in by_section.get(section, [])]
        return [source for source in sources if isinstance(source, str) and prompts.is_user_file(source)]


def merge_settings(old: Any, new: Any) -> Any:
    """Return `new` laid over `old`: mappings key by key, everything else as a whole."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: merge_settings(old.get(key), value) for key, value in new.items()}}


def score_openings(settings: Assessment) -> list[str]:
    """Return the text after a rating prompt for each of the scores, for `read: expected` and `constrained`."""
    opening = settings.opening
    if opening is None:
        opening = "" if settings.chat else " "
    return [f"{opening}{score}" for score in RATING_SCALE]
