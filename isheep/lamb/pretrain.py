"""Pretrain a lamb, from random weights or from another lamb, on pages of the micro-world.

`isheep lamb pretrain --out DIR` saves its state and resumes from it. After 30% of the tokens come pages on which words
must be compared. Over the last fifth of the tokens the learning rate decays linearly. Pages are batched by
length, one page per row, so that attention never crosses pages and there is little padding.
"""

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from isheep.errors import UserError, unknown_name
from isheep.lamb.model import VOCABULARY, make_config, make_model, make_tokenizer
from isheep.lamb.pages import COMPARISON_PAGES, PAGES, Page, PageShares, page_text, pages
from isheep.lamb.pretraining_state import STATE_FILE, export, read_state, resume, save
from isheep.lamb.shapes import DEFAULT_SIZE, SHAPES
from isheep.lamb.start import check_start, copy_weights

SAVE_SECONDS = 180

LOSS_DECAY = 0.98
"""How much a step counts in the mean loss, as a share of the weight of the step after it."""

DEFAULT_RATE = 0.02
COMPARISON_PHASE = (0.3, 0.42)
"""Where COMPARISON_PAGES begin and end, as shares of the tokens."""
POOL_SIZE = 4096
"""The number of pages that are sorted by length together."""


class PretrainSettings(NamedTuple):
    """How lamb is pretrained.

    `num_tokens` is the total, including those of a state to resume from, `size` a key of SHAPES, and `start_from` the
    folder of a lamb, not wider and with no fewer layers, from whose weights a new training starts. `batch_size` is the
    largest number of tokens, with padding, that each of `workers` processes reads in a step. `learning_rate` is the
    highest of Muon; AdamW has a quarter of it. None: that of the state to resume from, or DEFAULT_RATE.
    """

    num_tokens: int
    size: str = DEFAULT_SIZE
    start_from: Path | None = None
    seed: int = 1
    workers: int = 2
    batch_size: int = 4096
    learning_rate: float | None = None
    log_every: int = 50


def encode(tokenizer: Any, pages_to_encode: list[Page]) -> list[tuple[list[int], list[float]]]:
    """Return token ids and loss weights of each page; a token has the weight of the piece in which it starts."""
    encodings = tokenizer._tokenizer.encode_batch([page_text(page) for page in pages_to_encode])
    return [
        (encoding.ids, _token_weights(page, encoding.offsets))
        for page, encoding in zip(pages_to_encode, encodings, strict=True)
    ]


def _token_weights(page: Page, offsets: list[tuple[int, int]]) -> list[float]:
    piece_ends, position = [], 0
    for text, weight in page:
        position += len(text)
        piece_ends.append((position, weight))
    weights, piece = [], 0
    for start, _ in offsets:
        while start >= piece_ends[piece][0]:
            piece += 1
        weights.append(piece_ends[piece][1])
    return weights


def batches(tokenizer: Any, seed: int, batch_size: int, shares: PageShares) -> Iterator[tuple[Any, Any]]:
    """Yield batches of at most `batch_size` tokens with padding; pages of similar length are together.

    `shares` are those of the kinds of pages. A batch is (token ids, loss weights), each of shape (pages, length).
    """
    stream, rng = pages(seed, shares), Random(seed)
    while True:
        rows = sorted(encode(tokenizer, list(islice(stream, POOL_SIZE))), key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[float]]]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row[0]) > batch_size:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            yield _pad(group)


def _pad(rows: list[tuple[list[int], list[float]]]) -> tuple[Any, Any]:
    import torch

    length = max(len(row_ids) for row_ids, _ in rows)
    ids, weights = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length)
    for index, (row_ids, row_weights) in enumerate(rows):
        ids[index, : len(row_ids)] = torch.tensor(row_ids)
        weights[index, : len(row_ids)] = torch.tensor(row_weights)
    return ids, weights


def pretrain(output_dir: Path, settings: PretrainSettings) -> None:
    """Train up to `settings.num_tokens` tokens in total, from the state in `output_dir` if there is one.

    Each worker is a process of one thread, with a GPU of its own where the machine has GPUs. On a busy machine such
    processes are faster than one process with as many threads.
    Raises UserError if a setting is invalid, if `output_dir` has the state of another size, or a model without a state,
    or if the new model can't start from `settings.start_from`.
    """
    import torch
    from torch.multiprocessing.spawn import spawn
    from transformers import AutoTokenizer

    if settings.size not in SHAPES:
        raise UserError(f"--size: {unknown_name('size', settings.size, list(SHAPES))}")
    if settings.learning_rate is not None and not 0 < settings.learning_rate < math.inf:
        raise UserError(f"--learning-rate is {settings.learning_rate}: give a number above 0, such as 0.02")
    num_gpus = torch.cuda.device_count()
    if 0 < num_gpus < settings.workers:
        raise UserError(
            f"--workers is {settings.workers}, and this machine has {num_gpus} GPU: give --workers {num_gpus}"
        )
    if settings.start_from:
        check_start(settings.start_from, make_config(VOCABULARY, SHAPES[settings.size]))
    output_dir.mkdir(parents=True, exist_ok=True)
    state = read_state(output_dir)
    if state and state["size"] != settings.size:
        size = state["size"]
        raise UserError(
            f"{output_dir} holds a lamb of size {size}: continue it with --size {size}, or take another --out"
        )
    if state is None and (output_dir / "config.json").exists():
        raise UserError(f"{output_dir} holds a model and no {STATE_FILE} to resume from: give another --out")
    # A training may pass its number of tokens by less than a step.
    if state and state["done"] - settings.num_tokens >= settings.workers * settings.batch_size:
        raise UserError(
            f"{output_dir} was trained on {state['done']} tokens already: give a larger --tokens, or another --out"
        )
    learning_rate = settings.learning_rate or (state or {}).get("learning_rate", DEFAULT_RATE)
    if settings.start_from and state is None:
        # The ids of the copied weights are those of this tokenizer. Another one may lie in the folder.
        tokenizer = AutoTokenizer.from_pretrained(settings.start_from)
        tokenizer.save_pretrained(output_dir)
    elif (output_dir / "tokenizer.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(output_dir)
    else:
        tokenizer = make_tokenizer(output_dir)
    # Every step allocates activations of some MB. By default glibc returns them to the system and faults them in again,
    # which takes 1.4 times as long.
    os.environ.update(MALLOC_MMAP_THRESHOLD_=str(2**32), MALLOC_TRIM_THRESHOLD_=str(2**32), MALLOC_TOP_PAD_=str(2**28))
    port = 20_000 + os.getpid() % 20_000
    arguments = (port, tokenizer, output_dir, settings, learning_rate)
    context = spawn(train_worker, arguments, nprocs=settings.workers, join=False)  # type: ignore[no-untyped-call]
    try:
        while not context.join():
            pass
    finally:
        # Python waits for its processes before it ends. After an interruption they would train to the end.
        for process in context.processes:
            process.kill()


def train_worker(
    worker: int, port: int, tokenizer: Any, output_dir: Path, settings: PretrainSettings, learning_rate: float
) -> None:
    """Train in one of the workers; worker 0 also logs, saves the state and exports the model."""
    import torch
    import torch.distributed as distributed
    from transformers import AutoModelForCausalLM

    # torch ends a worker whose parent is gone by SIGINT. A shell makes its background jobs ignore SIGINT, and workers
    # inherit that, so the default is restored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    device = f"cuda:{worker}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "gloo" if device == "cpu" else "nccl",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=worker,
        world_size=settings.workers,
    )
    model = make_model(len(tokenizer), SHAPES[settings.size], settings.seed)
    if settings.start_from and not (output_dir / STATE_FILE).exists():
        copy_weights(model, AutoModelForCausalLM.from_pretrained(settings.start_from, dtype=torch.float32))
    model.to(device)
    optimizers = make_optimizers(model, learning_rate)
    num_tokens, step = resume(model, optimizers, output_dir)
    page_seed = settings.seed + 1000 * step + worker
    usual_batches, comparison_batches = (
        batches(tokenizer, page_seed, settings.batch_size, shares) for shares in (PAGES, COMPARISON_PAGES)
    )
    log, saved_at = TrainingLog(num_tokens), time.monotonic()
    while num_tokens < settings.num_tokens:
        set_learning_rates(optimizers, learning_rate, settings.num_tokens, num_tokens, step)
        stream = comparison_batches if in_comparison_phase(num_tokens, settings.num_tokens) else usual_batches
        loss = train_step(model, optimizers, next(stream), settings.workers)
        # Every step counts as full batches, so that the number is an upper bound of the tokens that were read.
        num_tokens, step = num_tokens + settings.workers * settings.batch_size, step + 1
        log.add(loss)
        if worker == 0 and step % settings.log_every == 0:
            log.write(step, num_tokens)
        if worker == 0 and (time.monotonic() - saved_at > SAVE_SECONDS or num_tokens >= settings.num_tokens):
            save(model, optimizers, num_tokens, step, settings.size, learning_rate, output_dir)
            saved_at = time.monotonic()
    if worker == 0:
        export(model, output_dir)


def in_comparison_phase(num_tokens: int, total_tokens: int) -> bool:
    """Return whether a training on `total_tokens` reads COMPARISON_PAGES after `num_tokens` of them."""
    start, end = COMPARISON_PHASE
    return start * total_tokens <= num_tokens < end * total_tokens


class TrainingLog:
    """Lines of JSON on standard output with the step, the recent loss and the speed since this process began.

    The loss is a mean in which a step counts LOSS_DECAY times as much as the step after it. Batches have pages of
    similar length and differ in their losses, so that a few of them say little.
    """

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens_at_start, self.started = num_tokens, time.monotonic()
        self.loss_sum = self.weight_sum = 0.0

    def add(self, loss: float) -> None:
        """Count the loss of a step."""
        self.loss_sum = LOSS_DECAY * self.loss_sum + loss
        self.weight_sum = LOSS_DECAY * self.weight_sum + 1

    def write(self, step: int, num_tokens: int) -> None:
        """Print a line."""
        loss = self.loss_sum / self.weight_sum
        speed = (num_tokens - self.num_tokens_at_start) / (time.monotonic() - self.started)
        values = {"step": step, "tokens": num_tokens, "loss": round(loss, 4), "tokens/s": round(speed)}
        print(json.dumps(values), flush=True)


def set_learning_rates(
    optimizers: list[Any], learning_rate: float, total_tokens: int, num_tokens: int, step: int
) -> None:
    """Warm up over 100 steps; decay linearly to 2% over the last fifth of the tokens."""
    num_remaining = total_tokens - num_tokens
    scale = min(1.0, (step + 1) / 100, max(0.02, num_remaining / (0.2 * total_tokens)))
    for optimizer, rate in zip(optimizers, (learning_rate, learning_rate / 4), strict=True):
        optimizer.param_groups[0]["lr"] = rate * scale


def train_step(model: Any, optimizers: list[Any], batch: tuple[Any, Any], workers: int) -> float:
    """Take one optimizer step and return the loss of this worker's batch."""
    loss = weighted_loss(model, *batch)
    loss.backward()
    share_gradients(model, workers)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    value: float = loss.item()
    return value


def make_optimizers(model: Any, learning_rate: float) -> list[Any]:
    """Return Muon for the matrices, and AdamW for embeddings and norms."""
    import torch

    from isheep.lamb.muon import Muon

    parameters = list(model.named_parameters())
    matrices = [tensor for name, tensor in parameters if tensor.ndim == 2 and "embed" not in name]
    vectors = [tensor for name, tensor in parameters if tensor.ndim != 2 or "embed" in name]
    adamw = torch.optim.AdamW(vectors, lr=learning_rate / 4, betas=(0.9, 0.98), weight_decay=0.0)
    return [Muon(matrices, learning_rate), adamw]


def weighted_loss(model: Any, ids: Any, weights: Any) -> Any:
    """Return the mean next-token loss over the tokens with a weight; only those pass the output layer."""
    from torch.nn.functional import cross_entropy

    ids, weights = ids.to(model.device), weights.to(model.device)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    target, weight = ids[:, 1:].reshape(-1), weights[:, 1:].reshape(-1)
    mask = weight > 0
    losses = cross_entropy(model.lm_head(hidden.reshape(-1, hidden.shape[-1])[mask]), target[mask], reduction="none")
    return (losses * weight[mask]).sum() / weight[mask].sum()


def share_gradients(model: Any, workers: int) -> None:
    """Replace each gradient by its mean over all workers."""
    import torch
    import torch.distributed as distributed

    gradients = [parameter.grad for parameter in model.parameters()]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    sums: Any = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, gradient_sum in zip(gradients, sums, strict=True):
        gradient.copy_((gradient_sum / workers).view_as(gradient))
