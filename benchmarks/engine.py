"""Throughput of our engine against padded `generate` with the shared prefix repeated in every row.

Run `python -m benchmarks.engine` in the repository's root; `--help` lists the sizes. Decoding is greedy, and the texts
are compared.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from isheep.engines import Sampling
from isheep.engines.transformers import open_engine
from isheep.records import Model
from tests.conftest import make_checkpoint

LAMB = {
    "vocab_size": 1800, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 8, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 4096,
}  # fmt: skip
WORDS = ["capital", "France", "Paris", "colours", "lower", "commas", "opposite", "assistant", "right", "dog", "says"]


def prompts(tokenizer, prefix: int, suffix: int, count: int) -> list[str]:
    """`count` texts that share about `prefix` tokens, then go on with about `suffix` / 2 to `suffix` of their own."""

    def words(place: int, tokens: int) -> str:
        text = ""
        for i in range(place, place + 10 * tokens):
            if len(tokenizer(text).input_ids) >= tokens:
                break
            text += WORDS[(i * i + place) % len(WORDS)] + " "
        return text

    return [words(0, prefix) + f"{i}. " + words(i, suffix - (i % 2) * suffix // 2) for i in range(count)]


def padded(model, tokenizer, texts: list[str], length: int, batch: int) -> list[str]:
    """The usual way: `generate` on left-padded batches."""
    out: list[str] = []
    for start in range(0, len(texts), batch):
        inputs = tokenizer(texts[start : start + batch], return_tensors="pt", padding=True).to(model.device)
        ids = model.generate(**inputs, max_new_tokens=length, do_sample=False)
        out += tokenizer.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return out


def timed(run: Callable[[], list[str]], repeats: int) -> tuple[float, list[str]]:
    """The best of `repeats` in seconds, after one run to warm up, and the texts."""
    texts, seconds = run(), []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds), texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint (default: random weights in the size of lamb)")
    parser.add_argument("--count", type=int, default=128, help="prompts")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--prefix", type=int, nargs="+", default=[0, 100, 250, 500], help="shared tokens")
    parser.add_argument("--suffix", type=int, default=40, help="own tokens of a prompt")
    parser.add_argument("--length", type=int, default=48, help="new tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = args.model or str(make_checkpoint(Path(folder), "Llama", **LAMB))
        engine = open_engine(Model(path), threads=args.threads, batch=args.batch)
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        ours_is = engine.loaded.model
        model = AutoModelForCausalLM.from_pretrained(path, dtype=ours_is.dtype).to(ours_is.device)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        print("| shared tokens | padded generate, answers/s | our engine, answers/s | ratio | same texts |")
        print("|---|---|---|---|---|")
        for prefix in args.prefix:
            texts = prompts(tokenizer, prefix, args.suffix, args.count)
            sampling = Sampling(temperature=0, max_tokens=args.length)
            slow, theirs = timed(
                lambda texts=texts: padded(model, tokenizer, texts, args.length, args.batch), args.repeats
            )
            fast, ours = timed(
                lambda texts=texts, s=sampling: [c.text for c in engine.generate(texts, s, seed=0)], args.repeats
            )
            same = sum(a == b for a, b in zip(ours, theirs, strict=True))
            rates = f"{len(texts) / slow:.1f} | {len(texts) / fast:.1f} | {slow / fast:.2f}"
            print(f"| {prefix} | {rates} | {same}/{len(texts)} |", flush=True)


if __name__ == "__main__":
    main()
