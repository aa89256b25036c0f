"""Our engine against padded `generate`: the same prompts behind a shared beginning, greedy, the same answers.

    OMP_NUM_THREADS=1 python benchmarks/engine.py [--model CHECKPOINT] [--prefix 0 100 300 500]

By default lamb, and a Qwen2 of random weights with 100 million parameters, made on the spot. CPU seconds of this
process, the best of `--repeats` after one run to warm up; ratios are those of one run.
"""

import argparse
import tempfile
from pathlib import Path
from random import Random

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from usual import padded, timed

from isheep.engines.transformers import open_engine
from isheep.lamb import SEEDS
from isheep.models.checkpoint import find_checkpoint, load_tokenizer
from isheep.records import Model, Sampling
from isheep.seeds import load_seed_tasks
from isheep.stages.synthesize import render_synthesis_prompt

SHAPE = {
    "vocab_size": 32_000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_key_value_heads": 4, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip


def make_model(folder: Path) -> Path:
    """A checkpoint of random weights, 100 million; its tokens are words, so that a text has one reading."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    words.add_tokens([f"<w{i}>" for i in range(len(alphabet), SHAPE["vocab_size"])])
    last = f"<w{SHAPE['vocab_size'] - 1}>"
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token=last, pad_token=last).save_pretrained(folder)
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**SHAPE, eos_token_id=31_999, pad_token_id=31_999)).save_pretrained(folder)
    return folder


def prompts(tokenizer, prefix: int, count: int) -> list[str]:
    """`count` texts that share at least `prefix` tokens and go on with some of their own.

    They are prompts of a synthesis, each with the first half of another task, of up to 40 words, to go on with. Where
    a tokenizer has words of its own, 20 to 40 of them.
    """
    rng, words = Random(0), sorted(word for word in tokenizer.get_vocab() if word.startswith("<w"))
    if words:
        start, *own = ("".join(rng.choices(words, k=k)) for k in [prefix, *rng.choices(range(20, 41), k=count)])
        return [start + text for text in own]
    seeds = load_seed_tasks(SEEDS)
    examples = rng.sample(seeds, len(seeds))
    texts = (render_synthesis_prompt(examples[:n], True) for n in range(1, len(seeds)))
    start = next(text for text in texts if len(tokenizer(text).input_ids) >= prefix)
    tasks = [rng.choice(seeds).content.split()[:80] for _ in range(count)]
    return [f"{start} {' '.join(task[: (len(task) + 1) // 2])}" for task in tasks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["lamb", "random"], help="checkpoints")
    parser.add_argument("--count", type=int, default=128, help="prompts")
    parser.add_argument("--batch", type=int, default=64, help="rows at a time, on both sides")
    parser.add_argument("--prefix", type=int, nargs="+", default=[300], help="shared tokens")
    parser.add_argument("--length", type=int, default=64, help="the most new tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| model | shared tokens | written a prompt | padded `generate`, s | our engine, s | ratio | same answers |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.model:
            path = str(make_model(Path(folder))) if name == "random" else find_checkpoint(name)
            engine = open_engine(Model(path), threads=args.threads, batch=args.batch, dtype="float32")
            tokenizer = load_tokenizer(path)
            tokenizer.padding_side = "left"
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).to(engine.loaded.model.device)
            for prefix in args.prefix:
                texts = prompts(tokenizer, prefix, args.count)
                compare(f"{name}, {model.num_parameters() / 1e6:.0f}M", engine, model, tokenizer, texts, prefix, args)


def compare(name: str, engine, model, tokenizer, texts: list[str], prefix: int, args: argparse.Namespace) -> None:
    sampling = Sampling(temperature=0, max_tokens=args.length)
    usual = (model, tokenizer, texts[: args.batch])
    padded(*usual, 2, args.batch, do_sample=False), engine.generate(texts[:2], sampling, 0)
    slow, padded_rows = timed(
        lambda: padded(model, tokenizer, texts, args.length, args.batch, do_sample=False), args.repeats
    )
    fast, completions = timed(lambda: engine.generate(texts, sampling, seed=0), args.repeats)
    written = [(tokenizer.decode(row, skip_special_tokens=True), len(row)) for row in padded_rows]
    num_equal = sum(
        (completion.text, completion.tokens) == row for completion, row in zip(completions, written, strict=True)
    )
    mean = sum(completion.tokens for completion in completions) / len(completions)
    seconds = f"{slow:.2f} | {fast:.2f} | {slow / fast:.2f}"
    print(f"| {name} | {prefix} | {mean:.1f} | {seconds} | {num_equal}/{len(texts)} |", flush=True)


if __name__ == "__main__":
    main()
