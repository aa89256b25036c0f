"""Pretrains lamb from scratch: a Llama of 1.3M parameters on pages of the micro-world.

`isheep lamb pretrain --out DIR` checkpoints and resumes; the last fifth of the tokens is a linear decay of the rate.
Pages are batched by length, one page a row, so that nothing is attended to across pages and little is padding.
"""

import json
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from isheep.lamb.pages import END, STOP, Page, constants, pages

VOCABULARY = 2000
CONTEXT = 1024
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make_tokenizer(into: Path, sample: int = 60_000, seed: int = 1) -> Any:
    """Byte-level BPE trained on pages; the method's long constant sentences are one token each."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special, fixed = [STOP, "<|im_start|>", END], constants()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = ("".join(text for text, _ in page) for page in islice(pages(seed), sample))
    for piece in fixed:
        texts = (text.replace(piece, "\n") for text, piece in ((t, piece) for t in texts))
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(fixed),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in fixed])
    fast: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=STOP, pad_token=STOP, model_max_length=CONTEXT, chat_template=TEMPLATE
    )
    fast.save_pretrained(into)
    return fast


def make_model(vocabulary: int, seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: Any, some: list[Page]) -> list[tuple[list[int], list[float]]]:
    """Token ids and loss weights; a token has the weight of the piece in which it starts."""
    rows = []
    for page, encoding in zip(
        some, tokenizer._tokenizer.encode_batch(["".join(t for t, _ in p) for p in some]), strict=True
    ):
        edges, position = [], 0
        for text, weight in page:
            position += len(text)
            edges.append((position, weight))
        weights, piece = [], 0
        for start, _ in encoding.offsets:
            while start >= edges[piece][0]:
                piece += 1
            weights.append(edges[piece][1])
        rows.append((encoding.ids, weights))
    return rows


def batches(tokenizer: Any, seed: int, tokens: int) -> Iterator[tuple[Any, Any]]:
    """Batches of about `tokens` tokens: (ids, weights), each (rows, length), pages of like length together."""
    import torch

    stream, rng = pages(seed), Random(seed)
    while True:
        rows = sorted(encode(tokenizer, list(islice(stream, 4096))), key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[float]]]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row[0]) > tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            longest = max(len(ids) for ids, _ in group)
            ids = torch.zeros(len(group), longest, dtype=torch.long)
            weights = torch.zeros(len(group), longest)
            for i, (tokens_, weights_) in enumerate(group):
                ids[i, : len(tokens_)] = torch.tensor(tokens_)
                weights[i, : len(tokens_)] = torch.tensor(weights_)
            yield ids, weights


def pretrain(
    out: Path,
    tokens: int,
    seed: int = 1,
    workers: int = 2,
    batch: int = 4096,
    rate: float = 0.02,
    log_every: int = 50,
) -> None:
    """Trains up to `tokens` tokens in all, from the checkpoint in `out` where there is one.

    `workers` processes of one thread each share every step (`batch` tokens a worker): on a busy machine they beat one
    process of as many threads.
    """
    from torch.multiprocessing.spawn import spawn
    from transformers import AutoTokenizer

    out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(out) if (out / "tokenizer.json").exists() else make_tokenizer(out)
    # Activations of some MB at every step: glibc would return them to the system and fault them in again (1.4 times).
    os.environ.update(MALLOC_MMAP_THRESHOLD_=str(2**32), MALLOC_TRIM_THRESHOLD_=str(2**32), MALLOC_TOP_PAD_=str(2**28))
    port = 20_000 + os.getpid() % 20_000
    arguments = (workers, port, tokenizer, out, tokens, seed, batch, rate, log_every)
    spawn(work, arguments, nprocs=workers)  # type: ignore[no-untyped-call]


def work(
    worker: int,
    workers: int,
    port: int,
    tokenizer: Any,
    out: Path,
    tokens: int,
    seed: int,
    batch: int,
    rate: float,
    log_every: int,
) -> None:
    import torch
    import torch.distributed as distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=worker, world_size=workers)
    model = make_model(len(tokenizer), seed)
    optimizers = make_optimizers(model, rate)
    done, step = resume(model, optimizers, out)
    source = batches(tokenizer, seed + 1000 * step + worker, batch)
    began, began_done, saved, average = time.time(), done, time.time(), 0.0
    while done < tokens:
        scale = min(1.0, (step + 1) / 100, max(0.02, (tokens - done) / (0.2 * tokens)))
        for optimizer, base in zip(optimizers, (rate, rate / 4), strict=True):
            optimizer.param_groups[0]["lr"] = base * scale
        ids, weights = next(source)
        loss = weighted_loss(model, ids, weights)
        loss.backward()
        share_gradients(model, workers)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        done, step = done + workers * batch, step + 1
        average = loss.item() if average == 0 else 0.98 * average + 0.02 * loss.item()
        if worker == 0 and step % log_every == 0:
            speed = round((done - began_done) / (time.time() - began))
            print(json.dumps({"step": step, "tokens": done, "loss": round(average, 4), "tokens/s": speed}), flush=True)
        if worker == 0 and (time.time() - saved > 180 or done >= tokens):
            save(model, optimizers, done, step, out)
            saved = time.time()
    if worker == 0:
        export(model, out)


def make_optimizers(model: Any, rate: float) -> list[Any]:
    """Muon for the matrices, AdamW for embeddings and norms."""
    import torch

    from isheep.lamb.muon import Muon

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [Muon(matrices, rate), torch.optim.AdamW(others, lr=rate / 4, betas=(0.9, 0.98), weight_decay=0.0)]


def weighted_loss(model: Any, ids: Any, weights: Any) -> Any:
    """Mean next-token loss over the tokens with a weight (only those pass the output layer)."""
    from torch.nn.functional import cross_entropy

    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    target, weight = ids[:, 1:].reshape(-1), weights[:, 1:].reshape(-1)
    used = weight > 0
    losses = cross_entropy(model.lm_head(hidden.reshape(-1, hidden.shape[-1])[used]), target[used], reduction="none")
    return (losses * weight[used]).sum() / weight[used].sum()


def share_gradients(model: Any, workers: int) -> None:
    import torch
    import torch.distributed as distributed

    gradients = [p.grad for p in model.parameters()]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    distributed.all_reduce(flat)
    shares: Any = torch.split(flat, [g.numel() for g in gradients])
    for gradient, shared in zip(gradients, shares, strict=True):
        gradient.copy_((shared / workers).view_as(gradient))


def resume(model: Any, optimizers: list[Any], out: Path) -> tuple[int, int]:
    """Tokens and steps done, from the checkpoint in `out`; (0, 0) where there is none."""
    import torch

    if not (out / "state.pt").exists():
        return 0, 0
    saved = torch.load(out / "state.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    for optimizer, values in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(values)
    return saved["done"], saved["step"]


def save(model: Any, optimizers: list[Any], done: int, step: int, out: Path) -> None:
    import torch

    values = {
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        "done": done,
        "step": step,
    }
    torch.save(values, out / "state.pt.part")
    (out / "state.pt.part").rename(out / "state.pt")


def export(model: Any, into: Path) -> None:
    """The checkpoint as it is committed: safetensors in bf16 (computed in fp32)."""
    import copy

    import torch

    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(into)
