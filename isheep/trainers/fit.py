"""Fine-tuning with TRL's SFTTrainer, in one process or in each of many that train together; resumable."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from isheep.batching import derive_seed
from isheep.models.checkpoint import load_pretrained
from isheep.trainers import checkpoints
from isheep.trainers.job import Job
from isheep.trainers.rows import TokenizedRow, fill_batches, row_without_loss

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig

LOG_EVERY = 10  # steps, or a divisor of eval_every below it


def fit(job: Job, tokenizer: Any, advance: Callable[[int], None]) -> None:
    """Train to the end, from the newest sealed checkpoint where there is one. Leaves sealed checkpoints in `job.into`.

    Computes in float32 on CPU, in bfloat16 on CUDA. `tokenizer` has a token to pad with; `advance` is told of steps.
    """
    with _settled(job.machine.threads):
        _fit(job, tokenizer, advance)
        _free()


def _fit(job: Job, tokenizer: Any, advance: Callable[[int], None]) -> None:
    import torch
    from huggingface_hub import constants
    from transformers import PrinterCallback
    from transformers.utils import logging
    from trl import SFTTrainer

    constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL would report each training
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    device = job.machine.device
    cuda = torch.cuda.is_available() and device != "cpu"
    arguments = _arguments(job, cuda)
    if cuda and job.machine.processes == 1:
        _use(torch.device("cuda", torch.device(device or "cuda").index or 0), arguments)
    torch.manual_seed(arguments.seed)
    places, aside = _places(job)
    trainer = SFTTrainer(
        _with_adapter(job, arguments),
        args=arguments,
        train_dataset=_dataset(job.train, places),
        eval_dataset=_dataset(job.held_out, aside) if aside else None,
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_keeper(job, advance))
    newest = checkpoints.newest_step(job.into)
    trainer.train(resume_from_checkpoint=str(job.into / f"checkpoint-{newest}") if newest else None)


def _places(job: Job) -> tuple[list[int], list[int]]:
    """The places of the rows to train on and of those held out, in order.

    Processes that train together read rows in turns, `at_once` each. Where a step does not come out even, rows without
    loss fill it up, so that its loss is the mean over the same tokens with any number of processes. Held-out batches
    are those of one process, dealt out; the last one is filled up.
    """
    aside = list(range(len(job.held_out)))
    if job.machine.processes == 1:
        return job.places, aside
    size, held_out = job.rounds * job.at_once * job.machine.processes, job.held_out_batch
    train = fill_batches(job.places, job.training.batch, size, len(job.train))
    return train, fill_batches(aside, held_out, held_out, len(job.held_out))


def _dataset(rows: Sequence[TokenizedRow], places: list[int]) -> "Dataset":
    """The rows in the order of `places`; a place beyond them is a row without loss."""
    from datasets import Dataset

    known = [*rows, row_without_loss(rows[0])] if max(places) == len(rows) else rows
    return Dataset.from_list([row._asdict() for row in known]).select(places)


def _arguments(job: Job, cuda: bool) -> "SFTConfig":
    """Appendix E's settings in TRL's words.

    A training that has no more steps than `warmup_steps` warms up for a tenth of its steps.
    """
    from trl import SFTConfig

    training, machine, evaluate = job.training, job.machine, bool(job.held_out)
    checkpointing = machine.gradient_checkpointing
    return SFTConfig(
        output_dir=str(job.into),
        seed=derive_seed(job.seed, "training") % 2**32,
        num_train_epochs=1,  # the rows come in the order of all epochs, so that resuming needs only a place in it
        train_sampling_strategy="sequential",
        per_device_train_batch_size=job.at_once,
        per_device_eval_batch_size=job.held_out_batch,
        gradient_accumulation_steps=job.rounds,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.scheduler,
        warmup_steps=training.warmup_steps if job.steps > training.warmup_steps else job.steps // 10,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        padding_free=machine.packing,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=training.eval_every,
        save_steps=training.eval_every,
        logging_steps=next(n for n in range(LOG_EVERY, 0, -1) if training.eval_every % n == 0),
        logging_nan_inf_filter=False,
        metric_for_best_model="loss" if evaluate else None,
        prediction_loss_only=True,
        bf16=cuda,
        use_cpu=not cuda,
        gradient_checkpointing=cuda if checkpointing is None else checkpointing,
        ddp_find_unused_parameters=False,
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


def _with_adapter(job: Job, arguments: "SFTConfig") -> Any:
    """The base model with a trainable adapter: the one of `model`, or a new one whose random part torch's seed sets."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    model, lora = job.model, job.training.lora
    settings: dict[str, Any] = {"dtype": torch.bfloat16 if arguments.bf16 else torch.float32}
    if job.training.quantize:
        settings |= {"quantization_config": _nf4(), "device_map": {"": arguments.device}}
    base = load_pretrained(model.base, AutoModelForCausalLM, use_safetensors=True, **settings)
    if model.adapter:
        adapted = PeftModel.from_pretrained(base, str(model.adapter), is_trainable=True)
        # The recipe's name, such as "lamb", is written there; peft would ask the Hub about it at every checkpoint.
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


def _nf4() -> Any:
    """QLoRA's storage of the base: NormalFloat in 4 bits, its constants quantized too (Dettmers et al. 2023, 3)."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _keeper(job: Job, advance: Callable[[int], None]) -> "TrainerCallback":
    """What SFTTrainer calls: evaluate, log and save the last step too; seal checkpoints and drop those of no use."""
    import torch
    from transformers import TrainerCallback

    into, together = job.into, job.machine.processes > 1

    class Keeper(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if together:  # dropout of its own for each process; one that is resumed gets its state back later
                torch.manual_seed(derive_seed(args.seed, "process", args.process_index))

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            advance(1)
            if state.global_step == state.max_steps:
                control.should_log = control.should_save = True
                control.should_evaluate = args.eval_strategy != "no"

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if together:
                torch.distributed.barrier()  # each has written its part
            if args.process_index == 0:
                checkpoints.seal(into / f"checkpoint-{state.global_step}")
                for checkpoint in checkpoints.list_checkpoints(into):
                    if checkpoint.name not in (f"checkpoint-{n}" for n in (state.global_step, state.best_global_step)):
                        checkpoints.discard(checkpoint)

    return Keeper()


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
