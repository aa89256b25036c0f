"""The loop as it is usually glued together: transformers' `generate`, Alpaca's filter, TRL. The other side of loop.py.

    python benchmarks/glued.py FOLDER TASKS ITERATIONS BATCH POOL

Prompts, sampling, sizes and the shape of training are those of recipes/lamb.yaml, and prompts and replies are written
and read by isheep's own functions, so that both sides ask the same. All else is as people write it: padded batches,
examples drawn for each prompt, every criterion's reply generated, each new instruction compared with every known one
by `rouge_score`, SFTTrainer with its defaults, the adapter merged before the next round. Alpaca's code makes those
comparisons in a pool of processes that it starts for each new instruction: POOL of them, or with 0 in a plain loop,
which costs less where a few hundred are known.
"""

import random
import sys
import time
from functools import partial
from itertools import pairwise
from multiprocessing import Pool
from pathlib import Path

import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig
from rouge_score.rouge_scorer import RougeScorer, _score_lcs
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from isheep.api import load_recipe
from isheep.lamb import SEEDS
from isheep.models.chat_template import load_chat_template
from isheep.models.checkpoint import find_checkpoint
from isheep.records import Pair, Task
from isheep.seeds import load_seed_tasks
from isheep.stages import assess, synthesize


def generate(model, tokenizer, prompts, batch, length, ends, **sampling):
    """Each prompt's continuation as text, and whether it was cut off."""
    completions = []
    for start in range(0, len(prompts), batch):
        inputs = tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True)
        settings = {"max_new_tokens": length, "eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
        with torch.no_grad():
            ids = model.generate(**inputs, **settings, **sampling)[:, inputs.input_ids.shape[1] :]
        whole = [any(token in ends for token in row) for row in ids.tolist()]
        completions += zip(
            tokenizer.batch_decode(ids, skip_special_tokens=True), [not end for end in whole], strict=True
        )
    return completions


def closest(words, known_words, pool):
    """The highest ROUGE-L F of an instruction's words with those of known ones."""
    if not pool:
        return max(_score_lcs(words, known_row).fmeasure for known_row in known_words)
    with Pool(pool) as workers:
        return max(score.fmeasure for score in workers.map(partial(_score_lcs, words), known_words))


def write_tasks(model, tokenizer, recipe, ends, wanted, batch, pool):
    settings = recipe.synthesis
    drawn = {"do_sample": True, "temperature": settings.sampling.temperature, "top_p": 1.0, "top_k": 0}
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    seeds = load_seed_tasks(SEEDS)
    known_words = [scorer._tokenizer.tokenize(seed.instruction) for seed in seeds]
    tasks, num_prompts = [], 0
    while len(tasks) < wanted and num_prompts < settings.budget:
        prompts = [synthesize.render_synthesis_prompt(random.sample(seeds, settings.examples)) for _ in range(batch)]
        num_prompts += batch
        for text, cut in generate(model, tokenizer, prompts, batch, settings.sampling.max_tokens, ends, **drawn):
            for block in synthesize.parse_blocks(text, settings.examples + 1, cut):
                if block.cut or not block.instruction or synthesize.broken_rule(block.instruction):
                    continue
                words = scorer._tokenizer.tokenize(block.instruction)
                if closest(words, known_words, pool) > settings.novelty:
                    continue
                known_words.append(words)
                tasks.append(Task(id=f"t-{len(tasks)}", instruction=block.instruction, input=block.input))
    return tasks[:wanted]


def write_pairs(model, tokenizer, recipe, chat, ends, tasks, batch):
    drawn = {"do_sample": True, "temperature": recipe.response.sampling.temperature, "top_p": 1.0, "top_k": 0}
    prompts = [chat.prompt(task.content) for task in tasks]
    answers = generate(model, tokenizer, prompts, batch, recipe.response.sampling.max_tokens, ends, **drawn)
    return [
        Pair(**task.model_dump(), output=text.strip(), finish="stop", tokens=1, seed=0)
        for task, (text, _) in zip(tasks, answers, strict=True)
    ]


def rate(model, tokenizer, recipe, chat, ends, pairs, batch):
    """The pairs whose scores all reach 8."""
    settings = recipe.assessment
    least = [10.0] * len(pairs)
    for criterion in settings.criteria:
        prompts = [assess.render_rating_prompt(pair, criterion, settings, chat) for pair in pairs]
        replies = generate(model, tokenizer, prompts, batch, settings.sampling.max_tokens, ends, do_sample=False)
        least = [min(score, assess.parse_grade(text) or 0) for score, (text, _) in zip(least, replies, strict=True)]
    return [pair for pair, score in zip(pairs, least, strict=True) if score >= 8]


def train(base, recipe, chat, pairs, into):
    settings = recipe.training
    rows = [{"prompt": chat.prompt(pair.content), "completion": pair.output + chat.end} for pair in pairs]
    parts = Dataset.from_list(rows).train_test_split(settings.held_out, seed=42)
    arguments = SFTConfig(
        output_dir=str(into), num_train_epochs=settings.epochs, learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine", warmup_steps=settings.warmup_steps, per_device_train_batch_size=settings.batch,
        max_length=settings.cutoff, eval_strategy="epoch", save_strategy="epoch", use_cpu=True, bf16=False,
        report_to="none", disable_tqdm=True,
    )  # fmt: skip
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        AutoTokenizer.from_pretrained(base),
    )
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear")
    trainer = SFTTrainer(model, arguments, train_dataset=parts["train"], eval_dataset=parts["test"],
                         processing_class=tokenizer, peft_config=lora)  # fmt: skip
    trainer.train()
    trainer.save_model(str(into))


def main() -> None:
    folder, (wanted, iterations, batch, pool) = Path(sys.argv[1]), map(int, sys.argv[2:])
    torch.set_num_threads(1)
    random.seed(42), torch.manual_seed(42)
    recipe = load_recipe("lamb")

    base, chat = find_checkpoint("lamb"), load_chat_template(recipe.chat_template, "lamb")
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    ends = sorted({tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(chat.end)})
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    for t in range(1, iterations + 1):
        ends_at = [time.process_time()]
        tasks = write_tasks(model, tokenizer, recipe, ends, wanted, batch, pool)
        ends_at.append(time.process_time())
        pairs = write_pairs(model, tokenizer, recipe, chat, ends, tasks, batch)
        ends_at.append(time.process_time())
        chosen = rate(model, tokenizer, recipe, chat, ends, pairs, batch)
        ends_at.append(time.process_time())
        train(base, recipe, chat, chosen, folder / f"adapter-{t}")
        ends_at.append(time.process_time())
        parts = zip(("tasks", "answers", "ratings", "training"), pairwise(ends_at), strict=True)
        seconds_text = ", ".join(f"{name} {end - start:.1f} s" for name, (start, end) in parts)
        print(f"iteration {t}: {len(tasks)} tasks, {len(chosen)} pairs kept; {seconds_text} of CPU", flush=True)
        model = (
            AutoPeftModelForCausalLM.from_pretrained(folder / f"adapter-{t}", dtype=torch.float32)
            .merge_and_unload()
            .eval()
        )


if __name__ == "__main__":
    main()
