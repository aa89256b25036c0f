"""The peft trainer: LoRA fine-tuning with TRL's SFTTrainer, resumable, with the same bytes on every run."""

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from math import ceil, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isheep.batching import seed_of
from isheep.chat import Chat
from isheep.checkpoint import load, load_tokenizer, start_of
from isheep.errors import UserError
from isheep.files import write_text
from isheep.progress import progress
from isheep.recipe import Training
from isheep.records import Model, Pair
from isheep.trainers import checkpoints
from isheep.trainers import rows as data

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback
    from trl import SFTConfig

RESULT = "training.json"  # written last: where it is, the adapter is complete
WEIGHTS = "adapter_model.safetensors"
LOG_EVERY = 10  # steps, or a divisor of eval_every below it


def train(
    model: Model,
    pairs: Sequence[Pair],
    chat: Chat,
    training: Training,
    seed: int,
    into: Path,
    threads: int | None = None,
    device: str | None = None,
    rows_at_once: int | None = None,
) -> None:
    """SFT(M, D) (Liang et al. 2024, Algorithm 1, line 8; Appendix E): a LoRA adapter of `model` in the folder `into`.

    Starts from `model.adapter` where there is one, else from a new adapter on all linear layers. At the end `into`
    holds the adapter, the tokenizer with the chat template, and training.json (settings, rows, losses), so that plain
    transformers and peft load it. Computes in float32 on CPU, in bfloat16 on CUDA, `rows_at_once` (a divisor of
    `training.batch`; all of it where it is None) at a time. A killed call made again goes on at the last sealed
    checkpoint in `into`, and on CPU with the same number of threads it ends with the same bytes.

    Raises UserError where fewer than two rows can be used, and where the loss is no longer a number.
    """
    if not (into / RESULT).exists():
        tokenizer = _tokenizer(model, chat)
        rows = data.choose(pairs, chat, tokenizer, training, seed)
        steps = training.max_steps or ceil(len(rows.train) * training.epochs / training.batch)
        with _settled(threads):
            if checkpoints.newest(into) < steps:
                _fit(model, rows, tokenizer, training, seed, into, device, rows_at_once or training.batch)
                _free()
        _finish(model, rows, chat, tokenizer, training, seed, into)
    for checkpoint in checkpoints.all_of(into):
        shutil.rmtree(checkpoint)
    (into / "README.md").unlink(missing_ok=True)  # TRL's model card


# --- the training itself


def _fit(
    model: Model,
    rows: data.Rows,
    tokenizer: Any,
    training: Training,
    seed: int,
    into: Path,
    device: str | None,
    at_once: int,
) -> None:
    """Train to the end, from the newest sealed checkpoint where there is one. Leaves sealed checkpoints in `into`."""
    import torch
    from datasets import Dataset
    from huggingface_hub import constants
    from transformers import PrinterCallback
    from transformers.utils import logging
    from trl import SFTTrainer

    constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL would report each training
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.is_available() and device != "cpu"
    places = data.course([len(row.input_ids) for row in rows.train], training, seed)
    arguments = _arguments(training, len(places), bool(rows.held_out), seed, into, cuda, at_once)
    if cuda:
        _use(torch.device("cuda", torch.device(device or "cuda").index or 0), arguments)
    torch.manual_seed(arguments.seed)
    trainer = SFTTrainer(
        _with_adapter(model, training, cuda),
        args=arguments,
        train_dataset=Dataset.from_list([row._asdict() for row in rows.train]).select(places),
        eval_dataset=Dataset.from_list([row._asdict() for row in rows.held_out]) if rows.held_out else None,
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    newest = checkpoints.newest(into)
    with progress(f"{into.parent.name}/training", ceil(len(places) / training.batch), newest) as advance:
        trainer.add_callback(_keeper(into, advance))
        trainer.train(resume_from_checkpoint=str(into / f"checkpoint-{newest}") if newest else None)


def _arguments(
    training: Training, rows: int, evaluate: bool, seed: int, into: Path, cuda: bool, at_once: int
) -> "SFTConfig":
    """Appendix E's settings in TRL's words. `rows` is the number of rows of all epochs together, already in order.

    A training that has no more steps than `warmup_steps` warms up for a tenth of its steps.
    """
    from trl import SFTConfig

    steps = ceil(rows / training.batch)
    return SFTConfig(
        output_dir=str(into),
        seed=seed_of(seed, "training") % 2**32,
        num_train_epochs=1,  # the rows come in the order of all epochs, so that resuming needs only a place in it
        train_sampling_strategy="sequential",
        per_device_train_batch_size=at_once,
        per_device_eval_batch_size=at_once,
        gradient_accumulation_steps=training.batch // at_once,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.scheduler,
        warmup_steps=training.warmup_steps if steps > training.warmup_steps else steps // 10,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=training.eval_every,
        save_steps=training.eval_every,
        logging_steps=next(n for n in range(LOG_EVERY, 0, -1) if training.eval_every % n == 0),
        logging_nan_inf_filter=False,
        metric_for_best_model="loss" if evaluate else None,
        prediction_loss_only=True,
        bf16=cuda,
        use_cpu=not cuda,
        gradient_checkpointing=cuda,  # a batch of long rows fits a large model only so
        dataloader_pin_memory=cuda,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )


def _use(device: "torch.device", arguments: "SFTConfig") -> None:
    """Train on this GPU alone: the arguments would take the first one, and count them all, which TRL refuses."""
    import torch

    assert arguments.device.type == "cuda"  # looking sets it, and the number of GPUs, for good: so it comes first
    vars(arguments)["_setup_devices"] = device
    arguments._n_gpu = 1
    torch.cuda.set_device(device)


def _with_adapter(model: Model, training: Training, cuda: bool) -> Any:
    """The base model with a trainable adapter: the one of `model`, or a new one whose random part torch's seed sets."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if cuda else torch.float32
    base = load(model.base, AutoModelForCausalLM, use_safetensors=True, dtype=dtype)
    if model.adapter:
        adapted = PeftModel.from_pretrained(base, str(model.adapter), is_trainable=True)
        # The recipe's name, such as "lamb", is written there; peft would ask the Hub about it at every checkpoint.
        adapted.peft_config["default"].base_model_name_or_path = base.name_or_path
        return adapted
    lora = training.lora
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
    )
    return get_peft_model(base, config)


def _keeper(into: Path, advance: Callable[[int], None]) -> "TrainerCallback":
    """What SFTTrainer calls: evaluate, log and save the last step too; seal checkpoints and drop those of no use."""
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            advance(1)
            if state.global_step == state.max_steps:
                control.should_log = control.should_save = True
                control.should_evaluate = args.eval_strategy != "no"

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            checkpoints.seal(into / f"checkpoint-{state.global_step}")
            for checkpoint in checkpoints.all_of(into):
                if checkpoint.name not in (f"checkpoint-{state.global_step}", f"checkpoint-{state.best_global_step}"):
                    checkpoints.discard(checkpoint)

    return Keeper()


# --- the adapter folder


def _finish(
    model: Model, rows: data.Rows, chat: Chat, tokenizer: Any, training: Training, seed: int, into: Path
) -> None:
    """The adapter folder from the checkpoints: the best or last one's weights, the tokenizer, training.json last."""
    last = checkpoints.newest(into)
    state = json.loads((into / f"checkpoint-{last}" / "trainer_state.json").read_text(encoding="utf-8"))
    losses = {
        name: [[entry["step"], entry[name]] for entry in state["log_history"] if name in entry]
        for name in ("loss", "eval_loss")
    }
    for name, values in losses.items():
        for step, value in values:
            if not isfinite(value):
                way = "with a new --out, lower training.learning_rate"
                raise UserError(f"training's {name} is {value} at step {step}: {way}")
    best = state["best_global_step"] if training.keep == "best" and losses["eval_loss"] else last
    kept = into / f"checkpoint-{best}"
    shutil.copyfile(kept / WEIGHTS, into / WEIGHTS)
    config = json.loads((kept / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = model.base
    config["target_modules"] = sorted(config["target_modules"])  # peft keeps a set: its order differs from run to run
    write_text(into / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    _save_tokenizer(tokenizer, chat, into)
    result = {
        "base": model.base,
        "chat": chat.name,
        "seed": seed,
        "goes_on": model.adapter is not None,
        "settings": training.model_dump(exclude={"start", "data"}),  # which say only what this training was given
        "rows": {
            "sampled": rows.sampled,
            "prompt_too_long": rows.too_long,
            "trained": len(rows.train),
            "held_out": len(rows.held_out),
        },
        "steps": last,
        "kept_step": best,
        **losses,
    }
    write_text(into / RESULT, json.dumps(result, indent=1) + "\n")


def _tokenizer(model: Model, chat: Chat) -> Any:
    """The tokenizer, with a token to pad with: TRL would set one, where a resumed training may not come by."""
    tokenizer = load_tokenizer(model.base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or chat.end
    return tokenizer


def _save_tokenizer(tokenizer: Any, chat: Chat, into: Path) -> None:
    """The tokenizer, whose `apply_chat_template` gives the tokens of training and whose end token ends an answer."""
    template = chat.template
    if start_of(tokenizer) and not chat.prompt("").startswith(tokenizer.bos_token):
        template = "{{- bos_token }}" + template  # apply_chat_template adds none by itself
    tokenizer.chat_template = template
    tokenizer.eos_token = chat.end
    tokenizer.save_pretrained(into)


def merge(model: Model, chat: Chat, into: Path) -> None:
    """A checkpoint with the adapter of `model` in its weights, in the folder `into`: plain transformers loads it,
    knows the chat template, and stops where an answer ends. Weights are computed in float32 and then rounded to the
    base's type: where that is bfloat16, base and adapter side by side are more exact."""
    import torch
    from transformers import AutoConfig

    from isheep.engines.transformers import load_model

    stored = load(model.base, AutoConfig).dtype or torch.float32
    merged = load_model(model, "float32").to(stored)
    tokenizer = _tokenizer(model, chat)
    _save_tokenizer(tokenizer, chat, into)
    merged.config.eos_token_id = merged.generation_config.eos_token_id = tokenizer.eos_token_id
    merged.save_pretrained(into, safe_serialization=True)


# --- the process around it


@contextlib.contextmanager
def _settled(threads: int | None) -> Iterator[None]:
    """The number of threads, and deterministic algorithms wherever torch has them, put back afterwards. Quiet about
    what libraries plan for their next versions."""
    import torch

    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads or threads_before)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    switch: Any = torch.utils.deterministic
    filling = switch.fill_uninitialized_memory
    switch.fill_uninitialized_memory = False  # a third of the time, and it changes no result
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        switch.fill_uninitialized_memory = filling


def _free() -> None:
    """Give the GPU's memory back."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
