"""Resumable fine-tuning with TRL's SFTTrainer, in this process alone or in each of several that train together."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from isheep.batching import derive_seed
from isheep.engines.memory import free_memory
from isheep.errors import describe_exception, is_out_of_memory
from isheep.models.checkpoint import load_pretrained
from isheep.rundir import progress
from isheep.trainers import checkpoints
from isheep.trainers.adapter_dir import LOSS_NAMES
from isheep.trainers.job import Job
from isheep.trainers.memory import EvaluationMemoryError
from isheep.trainers.row_trainer import row_trainer
from isheep.trainers.rows import TokenizedRow, fill_batches, row_without_loss

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig

MAX_LOGGING_STEPS = 10
"""The number of steps between two logged losses; if it does not divide `eval_every`, the next smaller divisor."""

WARMUP_SHARE = 10
"""If a training has no more steps than `warmup_steps`, it warms up during 1/N of them, N being this number."""


def fit(job: Job, tokenizer: Any, advance: Callable[[int], None]) -> None:
    """Train to the last step, resuming from the newest sealed checkpoint if there is one.

    Leaves sealed checkpoints in `job.output_dir`. Computes in float32 on the CPU, in bfloat16 on CUDA. `tokenizer`
    must have a padding token; `advance` is called with the number of steps that are done.
    """
    with _deterministic_torch(job.machine.threads):
        _fit(job, tokenizer, advance)
        free_memory()


def _fit(job: Job, tokenizer: Any, advance: Callable[[int], None]) -> None:
    import torch
    from transformers import PrinterCallback
    from trl import SFTTrainer

    _silence_libraries()
    device = job.machine.device
    use_cuda = torch.cuda.is_available() and device != "cpu"
    arguments = _training_arguments(job, use_cuda)
    if use_cuda and job.machine.processes == 1:
        _use_single_gpu(torch.device("cuda", torch.device(device or "cuda").index or 0), arguments)
    torch.manual_seed(arguments.seed)
    train_indices, held_out_indices = row_indices(job)
    eval_dataset = _make_dataset(job.held_out, held_out_indices) if held_out_indices else None
    trainer_class = row_trainer() if job.training.weigh == "rows" else SFTTrainer
    trainer = trainer_class(
        _load_trainable_model(job, arguments),
        args=arguments,
        train_dataset=_make_dataset(job.train, train_indices),
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
    )
    vars(trainer)["evaluate"] = _name_memory_errors(trainer.evaluate)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_make_callback(job, advance))
    newest = checkpoints.newest_step(job.output_dir)
    resume_from = str(checkpoints.checkpoint_dir(job.output_dir, newest)) if newest else None
    trainer.train(resume_from_checkpoint=resume_from)


def _name_memory_errors(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """Return `evaluate`, which raises EvaluationMemoryError if memory is too small for the held-out rows."""

    def evaluate_held_out(*arguments: Any, **keywords: Any) -> Any:
        try:
            return evaluate(*arguments, **keywords)
        except Exception as error:
            if is_out_of_memory(error):
                raise EvaluationMemoryError(describe_exception(error)) from error
            raise

    return evaluate_held_out


def _silence_libraries() -> None:
    """Turn off progress bars, warnings, and the telemetry by which TRL would report each training."""
    from huggingface_hub import constants
    from transformers.utils import logging

    constants.HF_HUB_DISABLE_TELEMETRY = True
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def row_indices(job: Job) -> tuple[list[int], list[int]]:
    """Return the indices of the rows to train on and of the held-out rows, in order.

    Processes that train together read rows in turns, `device_batch_size` each. If a step does not divide evenly, rows
    without loss fill it up, so that its loss is the mean over the same tokens with any number of processes. Held-out
    batches are those of one process, shared out among all; the last one is filled up.
    """
    held_out = list(range(len(job.held_out)))
    if job.machine.processes == 1:
        return job.schedule, held_out
    step_size = job.accumulation_steps * job.device_batch_size * job.machine.processes
    train = fill_batches(job.schedule, job.training.batch_size, step_size, len(job.train))
    return train, fill_batches(held_out, job.eval_batch_size, job.eval_batch_size, len(job.held_out))


def _make_dataset(rows: Sequence[TokenizedRow], indices: list[int]) -> "Dataset":
    """Return the rows in the order of `indices`; the index len(rows) stands for a row without loss."""
    from datasets import Dataset

    if max(indices) == len(rows):
        rows = [*rows, row_without_loss(rows[0])]
    return Dataset.from_list([row._asdict() for row in rows]).select(indices)


def _training_arguments(job: Job, use_cuda: bool) -> "SFTConfig":
    """Return the settings (defaults: Appendix E) as TRL's arguments."""
    from trl import SFTConfig

    training, machine, evaluate = job.training, job.machine, bool(job.held_out)
    checkpointing = machine.gradient_checkpointing
    return SFTConfig(
        output_dir=str(job.output_dir),
        seed=derive_seed(job.seed, "training") % 2**32,
        # The rows come in the order of all epochs, so that a resumed training only has to skip the first ones.
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=job.device_batch_size,
        per_device_eval_batch_size=job.eval_batch_size,
        gradient_accumulation_steps=job.accumulation_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.scheduler,
        warmup_steps=_warmup_steps(job),
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        padding_free=machine.packing,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=training.eval_every,
        save_steps=training.eval_every,
        logging_steps=_logging_steps(training.eval_every),
        logging_nan_inf_filter=False,
        metric_for_best_model="loss" if evaluate else None,
        prediction_loss_only=True,
        bf16=use_cuda,
        use_cpu=not use_cuda,
        gradient_checkpointing=use_cuda if checkpointing is None else checkpointing,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=use_cuda,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )


def _warmup_steps(job: Job) -> int:
    if job.num_steps > job.training.warmup_steps:
        return job.training.warmup_steps
    return job.num_steps // WARMUP_SHARE


def _logging_steps(eval_every: int) -> int:
    """Return the largest divisor of `eval_every` up to MAX_LOGGING_STEPS, so that both losses are logged together."""
    return next(steps for steps in range(MAX_LOGGING_STEPS, 0, -1) if eval_every % steps == 0)


def _use_single_gpu(device: "torch.device", arguments: "SFTConfig") -> None:
    """Train on this GPU alone: by default the arguments take the first GPU and count all, which TRL refuses."""
    import torch

    # Reading `device` makes the arguments set it, and the number of GPUs, once and for all: it must come first.
    assert arguments.device.type == "cuda"
    vars(arguments)["_setup_devices"] = device
    arguments._n_gpu = 1
    torch.cuda.set_device(device)


def _load_trainable_model(job: Job, arguments: "SFTConfig") -> Any:
    """Return the base model with a trainable adapter: the one of `job.start_model`, or a new one.

    The random part of a new adapter depends on torch's seed.
    """
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    model, lora = job.start_model, job.training.lora
    settings: dict[str, Any] = {"dtype": torch.bfloat16 if arguments.bf16 else torch.float32}
    if job.training.quantize:
        settings |= {"quantization_config": _nf4_config(), "device_map": {"": arguments.device}}
    base = load_pretrained(model.base, AutoModelForCausalLM, use_safetensors=True, **settings)
    if model.adapter:
        adapted = PeftModel.from_pretrained(base, str(model.adapter), is_trainable=True)
        # The adapter names its base as the recipe does, such as "lamb"; peft would look that name up on the Hub at
        # every checkpoint.
        adapted.peft_config["default"].base_model_name_or_path = base.name_or_path
        return adapted
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
    )
    return get_peft_model(base, config)


def _nf4_config() -> Any:
    """Return QLoRA's storage of the base: 4-bit NormalFloat with double quantization (Dettmers et al. 2023, 3)."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _make_callback(job: Job, advance: Callable[[int], None]) -> "TrainerCallback":
    """Return the callback that evaluates, logs and saves the last step too, seals checkpoints and removes old ones."""
    import torch
    from transformers import TrainerCallback

    output_dir, is_distributed = job.output_dir, job.machine.processes > 1

    class CheckpointCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # Each process draws dropout masks of its own. A resumed process gets its random state back after this.
            if is_distributed:
                torch.manual_seed(derive_seed(args.seed, "process", args.process_index))

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            advance(1)
            if state.global_step == state.max_steps:
                control.should_log = control.should_save = True
                control.should_evaluate = args.eval_strategy != "no"

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            losses = {name: float(logs[key]) for key, name in LOSS_NAMES.items() if key in (logs or {})}
            if losses:
                progress.report_losses(state.global_step, losses)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # Every process has written its part of the checkpoint once all have reached the barrier.
            if is_distributed:
                torch.distributed.barrier()
            if args.process_index == 0:
                checkpoints.seal(checkpoints.checkpoint_dir(output_dir, state.global_step))
                _discard_other_checkpoints(job, (state.global_step, state.best_global_step))

    return CheckpointCallback()


def _discard_other_checkpoints(job: Job, steps: tuple[int, ...]) -> None:
    """Remove all checkpoints but those of `steps`."""
    kept_names = {f"checkpoint-{step}" for step in steps}
    for checkpoint in checkpoints.list_checkpoints(job.output_dir):
        if checkpoint.name not in kept_names:
            checkpoints.discard(checkpoint)


@contextlib.contextmanager
def _deterministic_torch(threads: int | None) -> Iterator[None]:
    """Set the number of threads and use deterministic algorithms where torch has them; restore both afterwards.

    Warnings about future versions of libraries are not shown.
    """
    import torch

    num_threads = torch.get_num_threads()
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    is_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic
    fills_memory = deterministic.fill_uninitialized_memory
    torch.set_num_threads(threads or num_threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling uninitialized memory takes a third of the time and changes no result.
    deterministic.fill_uninitialized_memory = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        torch.set_num_threads(num_threads)
        torch.use_deterministic_algorithms(is_deterministic, warn_only=is_warn_only)
        deterministic.fill_uninitialized_memory = fills_memory
