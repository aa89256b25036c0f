"""Run the loop as it is usually built from common parts: `generate`, Alpaca's filter, TRL. See loop.py.

    python -m benchmarks.glued FOLDER [--recipe lamb] [--model lamb] [--tasks 700] [--iterations 3] [--batch 16]

Prompts, sampling, sizes and the shape of training are those of the recipe, and isheep's own functions write the
prompts and read the replies, so that both sides do the same work. The rest is as people write it: padded batches,
examples drawn for each prompt, a generated reply for every criterion, each new instruction compared with every known
one by `rouge_score`, SFTTrainer with its defaults, the adapter merged before the next iteration. Alpaca's code makes
these comparisons in a pool of processes that it starts for each new instruction. `--pool` is the number of processes;
with 0 it is a plain loop, which costs less as long as a few hundred instructions are known. Where a recipe keeps the
best share of the pairs, generated ratings decide, and one that can't be read counts as 0.
"""

import argparse
import random
from collections.abc import Sequence
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rouge_score.rouge_scorer import RougeScorer, _score_lcs

from benchmarks.common import add_cpu_seconds, make_parser, run_script
from isheep.api import load_recipe
from isheep.errors import UserError
from isheep.filters.score import ScoreFilter
from isheep.lamb import SEEDS
from isheep.models.chat_template import ChatTemplate, load_chat_template
from isheep.models.checkpoint import choose_dtype, find_checkpoint
from isheep.recipe.schema import Assessment, Recipe
from isheep.records import Pair, Sampling, Task
from isheep.seeds import load_seed_file
from isheep.stages import assess, grades, synthesize
from isheep.stages.blocks import parse_blocks
from isheep.stages.rules import broken_rule

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 42
# One pair to learn from and one to hold out.
MIN_PAIRS = 2


class Loop(NamedTuple):
    """What every step of an iteration needs: the model that generates, and the settings."""

    base: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    recipe: Recipe
    chat: ChatTemplate
    end_ids: list[int]
    """The tokens that end an answer."""
    batch_size: int


def generate(loop: Loop, prompts: Sequence[str], sampling: Sampling) -> list[tuple[str, bool]]:
    """Return each prompt's continuation as text, and whether it was cut off."""
    import torch

    settings: dict[str, Any] = {"max_new_tokens": sampling.max_tokens, "eos_token_id": loop.end_ids}
    settings["pad_token_id"] = loop.tokenizer.pad_token_id
    if sampling.temperature:
        settings |= {"do_sample": True, "temperature": sampling.temperature, "top_p": 1.0, "top_k": 0}
    else:
        settings["do_sample"] = False
    # PreTrainedModel does not declare it; every causal model has it.
    model_generate: Any = loop.model.generate
    completions: list[tuple[str, bool]] = []
    for start in range(0, len(prompts), loop.batch_size):
        batch = list(prompts[start : start + loop.batch_size])
        inputs = loop.tokenizer(batch, return_tensors="pt", padding=True)
        with torch.no_grad():
            ids = model_generate(**inputs, **settings)[:, inputs.input_ids.shape[1] :]
        cut = [not any(token in loop.end_ids for token in row) for row in ids.tolist()]
        texts = loop.tokenizer.batch_decode(ids, skip_special_tokens=True)
        completions += zip(texts, cut, strict=True)
    return completions


def highest_rouge(words: list[str], known_words: list[list[str]], pool: int) -> float:
    """Return the highest ROUGE-L F of an instruction's words with those of the known instructions."""
    if not pool:
        return max(float(_score_lcs(words, row).fmeasure) for row in known_words)
    with Pool(pool) as workers:
        return max(float(score.fmeasure) for score in workers.map(partial(_score_lcs, words), known_words))


def write_tasks(loop: Loop, num_tasks: int, pool: int) -> list[Task]:
    """Return new tasks, as many as wanted or as the budget of prompts allows."""
    settings = loop.recipe.synthesis
    limit = 1.0 if settings.novelty is None else settings.novelty
    tokenize = RougeScorer(["rougeL"], use_stemmer=False)._tokenizer.tokenize
    seeds = load_seed_file(SEEDS).tasks
    known_words = [tokenize(seed.instruction) for seed in seeds]
    tasks: list[Task] = []
    num_prompts = 0
    while len(tasks) < num_tasks and num_prompts < synthesize.prompt_budget(settings):
        prompts = [
            synthesize.render_synthesis_prompt(random.sample(seeds, settings.examples)) for _ in range(loop.batch_size)
        ]
        num_prompts += loop.batch_size
        for text, cut in generate(loop, prompts, settings.sampling):
            for block in parse_blocks(text, settings.examples + 1, cut):
                if block.cut or block.ambiguous or not block.instruction or broken_rule(block.instruction):
                    continue
                words = tokenize(block.instruction)
                if highest_rouge(words, known_words, pool) > limit:
                    continue
                known_words.append(words)
                tasks.append(Task(id=f"t-{len(tasks)}", instruction=block.instruction, input=block.input))
    return tasks[:num_tasks]


def write_pairs(loop: Loop, tasks: Sequence[Task]) -> list[Pair]:
    """Return the tasks with the model's answers."""
    prompts = [loop.chat.prompt(task.content) for task in tasks]
    answers = generate(loop, prompts, loop.recipe.response.sampling)
    return [
        Pair(**task.model_dump(), output=text.strip(), finish="stop", tokens=1, seed=0)
        for task, (text, _) in zip(tasks, answers, strict=True)
    ]


def select_pairs(loop: Loop, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs that the recipe's filter of scores keeps, by the lowest of their generated ratings."""
    settings = loop.recipe.assessment or Assessment()
    lowest = [10.0] * len(pairs)
    for criterion in settings.criteria:
        prompts = [assess.render_rating_prompt(pair, criterion, settings, loop.chat) for pair in pairs]
        replies = generate(loop, prompts, settings.sampling)
        lowest = [min(score, grades.parse_grade(text) or 0) for score, (text, _) in zip(lowest, replies, strict=True)]
    [score_filter] = [entry for entry in loop.recipe.filters if isinstance(entry, ScoreFilter)]
    if score_filter.best is None:
        threshold = score_filter.at_least or 0
        return [pair for pair, score in zip(pairs, lowest, strict=True) if score >= threshold]
    ranked = sorted(range(len(pairs)), key=lambda index: -lowest[index])
    return [pairs[index] for index in sorted(ranked[: round(score_filter.best * len(pairs))])]


def train(loop: Loop, pairs: Sequence[Pair], output_dir: Path) -> None:
    """Train a LoRA adapter of the base on the pairs with TRL's SFTTrainer."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    settings, chat, base, dtype = loop.recipe.training, loop.chat, loop.base, loop.model.dtype
    rows = [{"prompt": chat.prompt(pair.content), "completion": pair.output + chat.end} for pair in pairs]
    parts = Dataset.from_list(rows).train_test_split(settings.held_out, seed=SEED)
    arguments = SFTConfig(
        output_dir=str(output_dir), num_train_epochs=settings.epochs, learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine", warmup_steps=settings.warmup_steps,
        per_device_train_batch_size=settings.batch_size, max_length=settings.cutoff, eval_strategy="epoch",
        save_strategy="epoch", use_cpu=True, bf16=dtype == torch.bfloat16, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear")
    trainer = SFTTrainer(
        model, arguments, train_dataset=parts["train"], eval_dataset=parts["test"],
        processing_class=AutoTokenizer.from_pretrained(base), peft_config=lora,
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(output_dir))


def open_loop(args: argparse.Namespace) -> Loop:
    """Return the settings of the recipe with the base model, in the type that isheep computes it in."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    random.seed(SEED), torch.manual_seed(SEED)
    recipe = load_recipe(args.recipe)
    base, chat = find_checkpoint(args.model), load_chat_template(recipe.chat_template, args.model)
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    end_ids = sorted({tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(chat.end)})
    dtype = getattr(torch, choose_dtype(args.model, "cpu"))
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return Loop(base, model.eval(), tokenizer, recipe, chat, end_ids, args.batch)


def run_iteration(loop: Loop, t: int, args: argparse.Namespace) -> Loop:
    """Run an iteration, print its CPU seconds, and return the settings with its merged model."""
    from peft import AutoPeftModelForCausalLM

    spent: dict[str, float] = {}
    adapter = args.folder / f"adapter-{t}"
    with add_cpu_seconds(spent, "tasks"):
        tasks = write_tasks(loop, args.tasks, args.pool)
    with add_cpu_seconds(spent, "answers"):
        pairs = write_pairs(loop, tasks)
    with add_cpu_seconds(spent, "ratings"):
        selected = select_pairs(loop, pairs)
    if len(selected) < MIN_PAIRS:
        raise UserError(f"iteration {t} keeps {len(selected)} of {len(pairs)} pairs, too few to train: raise --tasks")
    with add_cpu_seconds(spent, "training"):
        train(loop, selected, adapter)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in spent.items())
    print(f"iteration {t}: {len(tasks)} tasks, {len(selected)} pairs kept; {seconds} of CPU", flush=True)
    merged = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=loop.model.dtype).merge_and_unload().eval()
    return loop._replace(model=merged)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the iterations one after another."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="Name the folder of the adapters.")
    parser.add_argument("--recipe", default="lamb", help="Name the recipe.")
    parser.add_argument("--model", default="lamb", help="Name the checkpoint of the base.")
    parser.add_argument("--tasks", type=int, default=700, help="Set the number of tasks of an iteration.")
    parser.add_argument("--iterations", type=int, default=3, help="Set the number of iterations.")
    parser.add_argument("--batch", type=int, default=16, help="Set the number of rows in a padded batch.")
    parser.add_argument("--pool", type=int, default=0, help="Set the number of processes for an instruction.")
    args = parser.parse_args(arguments)
    loop = open_loop(args)
    for t in range(1, args.iterations + 1):
        loop = run_iteration(loop, t, args)


if __name__ == "__main__":
    run_script(main)
