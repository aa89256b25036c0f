"""Compare isheep's engine with transformers' `generate` on padded batches: same prompts, greedy, texts compared.

    OMP_NUM_THREADS=1 python -m benchmarks.engine [--model CHECKPOINT] [--prefix 0 100 300 500]

The prompts share a prefix. The default models are lamb, and a Qwen2 of random weights with 100 million parameters that
is made at the start. Seconds are CPU seconds of this process, the best of `--repeats` after one call that warms up;
ratios are those of one run.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from benchmarks.common import best_time, make_parser, run_script
from isheep.engines.transformers import TransformersEngine, open_engine
from isheep.lamb import SEEDS
from isheep.models.checkpoint import find_checkpoint, load_tokenizer
from isheep.records import Model, Sampling
from isheep.seeds import load_seed_file
from isheep.stages.synthesize import render_synthesis_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VOCABULARY = 32_000
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_key_value_heads": 4, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
"""The shape of the model of random weights: 100 million parameters."""

RANDOM = "random"
"""The name that stands for the model of random weights."""


def make_random_model(folder: Path) -> Path:
    """Write a checkpoint of random weights. Its tokens are whole words, so that a text has only one tokenization."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    words.add_tokens([f"<w{i}>" for i in range(len(alphabet), VOCABULARY)])
    end = f"<w{VOCABULARY - 1}>"
    # transformers does not annotate its constructor.
    make_tokenizer: Any = PreTrainedTokenizerFast
    make_tokenizer(tokenizer_object=words, eos_token=end, pad_token=end).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPE, eos_token_id=VOCABULARY - 1, pad_token_id=VOCABULARY - 1)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def make_prompts(tokenizer: "PreTrainedTokenizerBase", prefix: int, count: int) -> list[str]:
    """Return `count` texts that share at least `prefix` tokens and end in different ways.

    They are synthesis prompts, each of which ends with the first half of another task, of up to 40 words. If the
    tokenizer is the one of the random model, they are random words, 20 to 40 of which are not shared.
    """
    rng, words = Random(0), sorted(word for word in tokenizer.get_vocab() if word.startswith("<w"))
    if words:
        start, *endings = ("".join(rng.choices(words, k=k)) for k in [prefix, *rng.choices(range(20, 41), k=count)])
        return [start + text for text in endings]
    seeds = load_seed_file(SEEDS).tasks
    examples = rng.sample(seeds, len(seeds))
    texts = (render_synthesis_prompt(examples[:n], True) for n in range(1, len(seeds)))
    start = next(text for text in texts if len(tokenizer(text).input_ids) >= prefix)
    tasks = [rng.choice(seeds).content.split()[:80] for _ in range(count)]
    return [f"{start} {' '.join(task[: (len(task) + 1) // 2])}" for task in tasks]


def generate_padded(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
) -> list[list[int]]:
    """Return the tokens of each greedy answer, its end token included, by `generate` on left-padded batches."""
    import torch

    # PreTrainedModel does not declare it; every causal model has it.
    generate: Any = model.generate
    end_id, pad_id, answers = tokenizer.eos_token_id, tokenizer.pad_token_id, list[list[int]]()
    for start in range(0, len(texts), batch_size):
        batch = list(texts[start : start + batch_size])
        inputs = tokenizer(batch, return_tensors="pt", padding=True).to(model.device)
        with torch.inference_mode():
            ids = generate(**inputs, max_new_tokens=max_new_tokens, pad_token_id=pad_id, do_sample=False)
        for row in ids[:, inputs.input_ids.shape[1] :].tolist():
            length = row.index(end_id) + 1 if end_id in row else len(row)
            answers.append(row[:length])
    return answers


def compare(name: str, path: str, engine: TransformersEngine, args: argparse.Namespace) -> None:
    """Print a row of the table for each length of the shared prefix."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(path)
    tokenizer.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).to(engine.loaded.model.device)
    sampling = Sampling(temperature=0, max_tokens=args.length)
    for prefix in args.prefix:
        texts = make_prompts(tokenizer, prefix, args.count)
        generate_padded(model, tokenizer, texts[: args.batch], 2, args.batch)
        engine.generate(texts[:2], sampling, 0)
        pad = partial(generate_padded, model, tokenizer, texts, args.length, args.batch)
        padded_seconds, padded_rows = best_time(pad, args.repeats)
        seconds, completions = best_time(partial(engine.generate, texts, sampling, 0), args.repeats)
        padded_texts = tokenizer.batch_decode(padded_rows, skip_special_tokens=True)
        expected = list(zip(padded_texts, map(len, padded_rows), strict=True))
        num_equal = sum(
            (completion.text, completion.tokens) == row for completion, row in zip(completions, expected, strict=True)
        )
        mean = sum(completion.tokens for completion in completions) / len(completions)
        size = f"{name}, {model.num_parameters() / 1e6:.0f}M"
        times = f"{padded_seconds:.2f} | {seconds:.2f} | {padded_seconds / seconds:.2f}"
        print(f"| {size} | {prefix} | {mean:.1f} | {times} | {num_equal}/{len(texts)} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of both ways."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", nargs="+", default=["lamb", RANDOM], help=f"Name checkpoints, or {RANDOM!r}.")
    parser.add_argument("--count", type=int, default=128, help="Set the number of prompts.")
    parser.add_argument("--batch", type=int, default=64, help="Set the number of rows in a batch, on both sides.")
    parser.add_argument("--prefix", type=int, nargs="+", default=[300], help="Set the number of shared tokens.")
    parser.add_argument("--length", type=int, default=64, help="Set the largest number of new tokens.")
    parser.add_argument("--threads", type=int, default=1, help="Set the number of threads.")
    parser.add_argument("--repeats", type=int, default=2, help="Set how often each way is timed.")
    args = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(args.threads)
    print("| model | shared tokens | tokens per answer | padded `generate`, s | isheep, s | ratio | equal answers |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.model:
            path = str(make_random_model(Path(folder))) if name == RANDOM else find_checkpoint(name)
            engine = open_engine(Model(path), threads=args.threads, batch=args.batch, dtype="float32")
            compare(name, path, engine, args)


if __name__ == "__main__":
    run_script(main)
