"""Training in several processes, and the settings that change how a model is trained but not what it learns."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.training import numbered_rows, save_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from isheep import api
from isheep.backends import trainer_module
from isheep.errors import UserError
from isheep.models.adapter_files import WEIGHTS
from isheep.models.chat_template import load_chat_template
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Lora, Recipe, Training
from isheep.records import Model
from isheep.trainers import launch, llamafactory, peft
from isheep.trainers.fit import row_indices
from isheep.trainers.job import Job
from isheep.trainers.rows import TokenizedRow

ROOT = Path(__file__).parents[1]
TRAINING = Training(
    epochs=2, batch_size=4, eval_every=3, learning_rate=5e-3, warmup_steps=2, lora=Lora(rank=4, dropout=0), held_out=0.2
)
ROWS = numbered_rows(21)


def train(base: Path, output_dir: Path, training: Training = TRAINING, **machine: Any) -> Any:
    """Train into `output_dir` with seed 7 and return training.json."""
    chat = load_chat_template("tokenizer", str(base))
    training_file = save_rows(output_dir.with_name(f"{output_dir.name}.json"), ROWS)
    settings = Machine(threads=1, device="cpu", **machine)
    peft.train(Model(str(base)), training_file, chat, training, 7, output_dir, settings)
    return json.loads((output_dir / "training.json").read_text())


@pytest.fixture(scope="module")
def single(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter folder of one process."""
    output_dir = tmp_path_factory.mktemp("trained") / "single"
    train(qwen2, output_dir)
    return output_dir


def assert_same(first: Path, second: Path, rel: float) -> None:
    """Compare losses and weights up to `rel`, and files that depend on the base alone to the last byte."""
    records = [json.loads((folder / "training.json").read_text()) for folder in (first, second)]
    for name in ("loss", "eval_loss"):
        assert [step for step, _ in records[0][name]] == [step for step, _ in records[1][name]]
        losses = [[loss for _, loss in record[name]] for record in records]
        assert losses[0] == pytest.approx(losses[1], rel=rel)
    weights = [load_file(folder / WEIGHTS) for folder in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        assert weights[0][name] == pytest.approx(weights[1][name], rel=100 * rel, abs=100 * rel)
    assert {path.name for path in first.iterdir()} == {path.name for path in second.iterdir()}
    for name in ("adapter_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


# --- the rows of each step


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 40), st.integers(1, 12), st.integers(2, 5), st.integers(1, 2))
def test_every_step_has_its_rows_with_any_number_of_processes(rows: int, batch: int, gpus: int, epochs: int) -> None:
    """The rows of a step are those of one process, rows without loss fill it up, and all processes read as many."""
    train_rows = [TokenizedRow([1] * (1 + n % 7), [1]) for n in range(rows)]
    held_out = train_rows[: rows // 3]
    machine, training = Machine(gpus=gpus), Training(batch_size=batch, epochs=epochs)
    job = Job(
        start_model=Model("lamb"), train=train_rows, held_out=held_out, pad_token="x", training=training, seed=1,
        machine=machine, output_dir=Path(),
    )  # fmt: skip
    indices, held_out_indices = row_indices(job)
    size = job.device_batch_size * gpus * job.accumulation_steps
    assert batch <= size < batch + job.device_batch_size * gpus and len(indices) == size * job.num_steps
    steps = [[index for index in indices[n : n + size] if index < rows] for n in range(0, len(indices), size)]
    assert steps == [job.schedule[n : n + batch] for n in range(0, len(job.schedule), batch)]
    assert [index for index in held_out_indices if index < len(held_out)] == list(range(len(held_out)))
    assert len(held_out_indices) % batch == 0 and len(held_out_indices) - len(held_out) < batch


@pytest.mark.numeric
@pytest.mark.parametrize("machine", [{"packing": True}, {"gradient_checkpointing": True}, {"gpus": 2}])
@pytest.mark.slow
def test_settings_of_the_machine_do_not_change_what_is_learned(
    machine: dict[str, Any], qwen2: Path, single: Path, tmp_path: Path
) -> None:
    train(qwen2, tmp_path / "adapter", **machine)
    assert_same(single, tmp_path / "adapter", 1e-5)


@pytest.mark.numeric
@pytest.mark.slow
@pytest.mark.parametrize("machine", [{"gpus": 3}, {"gpus": 2, "rows_per_process": 1}])
def test_processes_among_which_a_batch_of_four_is_uneven(
    machine: dict[str, Any], qwen2: Path, single: Path, tmp_path: Path
) -> None:
    """The losses are the same; held-out ones are means over batches of `rows`, with one process too."""
    if "rows_per_process" in machine:
        single = tmp_path / "single"
        train(qwen2, single, rows_per_process=machine["rows_per_process"])
    train(qwen2, tmp_path / "adapter", **machine)
    assert_same(single, tmp_path / "adapter", 1e-5)


@pytest.mark.numeric
@pytest.mark.slow
def test_every_row_weighs_the_same_in_any_number_of_processes(qwen2: Path, tmp_path: Path) -> None:
    """A batch of four is uneven among three processes, which rows without loss fill up."""
    training = TRAINING.model_copy(update={"weigh": "rows"})
    train(qwen2, tmp_path / "single", training)
    train(qwen2, tmp_path / "adapter", training, gpus=3)
    assert_same(tmp_path / "single", tmp_path / "adapter", 1e-5)


@pytest.mark.numeric
@pytest.mark.slow
def test_sharded_weights(qwen2: Path, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP with its configuration, in two processes on the CPU, computes in bfloat16 and learns the same."""
    original_command = launch.accelerate_command

    def fsdp_command(job: Job) -> list[str]:
        *words, module, name, path = original_command(job)
        assert (module, name) == ("-m", "isheep.trainers.worker") and any("fsdp.yaml" in word for word in words)
        return [*words, str(ROOT / "tests/helpers/fsdp_worker.py"), path]

    monkeypatch.setattr(launch, "accelerate_command", fsdp_command)
    train(qwen2, tmp_path / "sharded", gpus=2, strategy="fsdp")
    folders = (single, tmp_path / "sharded")
    losses = [json.loads((folder / "training.json").read_text())["loss"] for folder in folders]
    # They differ a little, because FSDP computes in bfloat16.
    assert losses[0] != losses[1]
    assert [loss for _, loss in losses[0]] == pytest.approx([loss for _, loss in losses[1]], rel=5e-3)
    weights = [load_file(folder / WEIGHTS) for folder in folders]
    assert weights[0].keys() == weights[1].keys()
    for name, matrix in weights[0].items():
        assert matrix == pytest.approx(weights[1][name], abs=0.03)


# --- failures


@pytest.mark.slow
def test_a_process_that_fails_is_reported_in_one_line(qwen2: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in qwen2.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    (base / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError) as raised:
        train(base, tmp_path / "adapter", gpus=2)
    message, log = str(raised.value), tmp_path / "adapter" / launch.LOG_FILE
    assert "\n" not in message and "training in 2 processes failed with exit status 1: UserError: model" in message
    assert str(log) in message and "Traceback" in log.read_text()


SCRIPT = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if the tests run in the background
sys.path.insert(0, {tests!r})
from test_scale import TRAINING, train
train(Path({base!r}), Path({output_dir!r}), TRAINING.model_copy(update={{"epochs": {epochs}}}), gpus=2)
"""


def start_training(base: Path, output_dir: Path, epochs: int) -> "subprocess.Popen[bytes]":
    script = SCRIPT.format(tests=str(ROOT / "tests"), base=str(base), output_dir=str(output_dir), epochs=epochs)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL)


def wait_until(condition: Any, process: "subprocess.Popen[bytes]") -> None:
    """Wait for a condition that a running process brings about."""
    while not condition():
        assert process.poll() is None
        time.sleep(0.05)


def list_workers(output_dir: Path) -> list[psutil.Process]:
    """Return the processes that were started for a training, accelerate's own included."""
    job = str((output_dir / launch.JOB_FILE).resolve())
    return [process for process in psutil.process_iter(["cmdline"]) if job in " ".join(process.info["cmdline"] or [])]


@pytest.mark.slow
@pytest.mark.parametrize("sent_signal", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_and_resumed(sent_signal: signal.Signals, qwen2: Path, tmp_path: Path) -> None:
    """No process stays behind, and the same call ends with the bytes of an undisturbed one."""
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    epochs = 8
    process = start_training(qwen2, stopped, epochs)
    wait_until(lambda: list(stopped.glob("checkpoint-*/complete")), process)
    running = list_workers(stopped)
    # accelerate's own process, and two workers.
    assert len(running) >= 3
    process.send_signal(sent_signal)
    process.wait()
    psutil.wait_procs(running, timeout=60)
    assert list_workers(stopped) == []
    assert not (stopped / "training.json").exists() and list(stopped.glob("checkpoint-*/complete"))
    for output_dir in (stopped, undisturbed):
        assert start_training(qwen2, output_dir, epochs).wait() == 0
    assert {path.name for path in undisturbed.iterdir()} == {path.name for path in stopped.iterdir()}
    assert all((stopped / path.name).read_bytes() == path.read_bytes() for path in undisturbed.iterdir())


def test_a_checkpoint_of_another_strategy_is_not_resumed_from(qwen2: Path, tmp_path: Path) -> None:
    """FSDP writes no optimizer.pt."""
    checkpoint = tmp_path / "adapter" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "complete").touch()
    with pytest.raises(UserError, match="another machine.strategy than ddp: set it back"):
        train(qwen2, tmp_path / "adapter")


# --- LLaMA-Factory, with a script in place of its command

LLAMAFACTORY_CLI = """#!{python}
import json, sys
from pathlib import Path
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
assert sys.argv[1:] == ["train", "sft.yaml"]
settings = yaml.safe_load(Path("sft.yaml").read_text())
info = json.loads(Path("dataset_info.json").read_text())
for key, rows in (("dataset", 17), ("eval_dataset", 4)):
    data = json.loads(Path(info[settings[key]]["file_name"]).read_text())
    assert len(data) == rows and data[0]["instruction"].startswith("Say "), data
assert settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"] == 4
assert settings["use_cpu"] and not settings["bf16"] and "max_samples" not in settings and "val_size" not in settings
out = Path(settings["output_dir"])
if not out.exists():
    (out / "checkpoint-3").mkdir(parents=True)
    sys.exit("no memory left")
assert not list(out.iterdir())  # the torn checkpoint is gone
base = AutoModelForCausalLM.from_pretrained(settings["model_name_or_path"])
config = LoraConfig(r=settings["lora_rank"], target_modules="all-linear", task_type="CAUSAL_LM")
get_peft_model(base, config).save_pretrained(out)
log = [{{"step": 9, "loss": 2.0}}, {{"step": 9, "eval_loss": 2.5}}]
state = {{"global_step": 9, "best_global_step": 9, "log_history": log}}
(out / "trainer_state.json").write_text(json.dumps(state))
"""


@pytest.mark.slow
def test_llamafactory_reads_our_files_and_its_adapter_is_used(
    qwen2: Path, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llamafactory-cli").write_text(LLAMAFACTORY_CLI.format(python=sys.executable))
    (tmp_path / "llamafactory-cli").chmod(0o755)
    machine = Machine(trainer="llamafactory", threads=1, device="cpu")
    recipe = Recipe(model=str(qwen2), training=TRAINING, machine=machine)
    with pytest.raises(UserError, match="needs llamafactory-cli, which is not installed"):
        llamafactory.check(recipe)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    llamafactory.check(recipe)
    chat, output_dir = load_chat_template("tokenizer", str(qwen2)), tmp_path / "adapter"
    training_file = save_rows(tmp_path / "train.json", ROWS)

    def train_llamafactory() -> None:
        llamafactory.train(Model(str(qwen2)), training_file, chat, TRAINING, 7, output_dir, machine)

    with pytest.raises(UserError, match="llamafactory-cli failed with exit status 1: no memory left; its output is in"):
        train_llamafactory()
    train_llamafactory()
    assert {path.name for path in output_dir.iterdir()} == {path.name for path in single.iterdir()}
    record, peft_record = (json.loads((folder / "training.json").read_text()) for folder in (output_dir, single))
    assert record.keys() == peft_record.keys() and record["rows"] == peft_record["rows"]
    assert record["eval_loss"] == [[9, 2.5]]
    save_rows(training_file, ROWS[:-1])
    with pytest.raises(UserError, match="has changed since .* was trained on it"):
        train_llamafactory()


# --- conflicts, checks and commands


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ("gpus: 32", "machine.gpus: 32 processes are more than a training.batch_size of 16 rows, 1 at once"),
        (
            "gpus: 5, rows_per_process: 4",
            "machine.gpus: 5 processes are more than a training.batch_size of 16 rows, 4 at once",
        ),
        ("rows_per_process: 3", "machine.rows_per_process: 3 does not divide training.batch_size 16"),
        ("strategy: fsdp", "machine.strategy: fsdp is for more than one GPU"),
        ("gpus: 2, device: 'cuda:1'", "machine.device: cuda:1 is one GPU"),
        ("gpus: 2, strategy: zero3, device: cpu", "machine.strategy: zero3 needs GPUs"),
    ],
)
def test_conflicting_settings_are_refused_at_loading(machine: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"model: lamb\nseed_tasks: lamb\nmachine: {{{machine}}}\n")
    with pytest.raises(UserError) as raised:
        api.load_recipe(tmp_path / "r.yaml", [])
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training": {"quantize": "nf4"}}, "quantize: nf4 needs CUDA and bitsandbytes"),
        ({"machine": {"gpus": 2, "strategy": "fsdp"}}, "fsdp needs CUDA"),
        ({"machine": {"gpus": 2, "nodes": 2}}, "machine.nodes is 2: more than one node needs srun"),
    ],
)
def test_what_this_machine_lacks_is_refused(settings: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match=message):
        peft.check(Recipe.model_validate({"model": "lamb", **settings}))


@pytest.mark.parametrize(
    ("trainer", "machine", "key"),
    [
        ("peft", {"strategy": "fsdp"}, "strategy"),
        ("peft", {"rows_per_process": 3}, "rows_per_process"),
        ("llamafactory", {"gpus": 2, "strategy": "fsdp"}, "strategy"),
        ("llamafactory", {"packing": True}, "packing"),
        ("llamafactory", {"nodes": 2}, "nodes"),
        ("llamafactory", {"gpus": 3}, "gpus"),
    ],
)
def test_conflicts_of_a_trainer(trainer: str, machine: dict[str, Any], key: str) -> None:
    recipe = Recipe.model_validate({"model": "lamb", "machine": {"trainer": trainer, **machine}})
    assert [path for path, _ in trainer_module(trainer).conflicts(recipe)] == [("machine", key)]
    assert list(trainer_module(trainer).conflicts(Recipe(model="lamb", machine=Machine(trainer=trainer)))) == []


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero3"])
def test_accelerate_reads_our_configurations(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate launch reads them into the environment of the processes."""
    from accelerate.commands import launch as accelerate_launch

    launched: list[Any] = []
    for name in ("multi_gpu_launcher", "deepspeed_launcher"):
        monkeypatch.setattr(accelerate_launch, name, lambda args, name=name: launched.append((name, args)))
    job = Job(
        start_model=Model("lamb"), train=[], held_out=[], pad_token="x", training=Training(), seed=1,
        machine=Machine(gpus=2, strategy=strategy, threads=1), output_dir=Path("adapter"),
    )  # fmt: skip
    command = launch.accelerate_command(job)
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    accelerate_launch.launch_command(accelerate_launch.launch_command_parser().parse_args(command[3:]))
    ((name, args),) = launched
    assert name == ("deepspeed_launcher" if strategy == "zero3" else "multi_gpu_launcher")
    assert (args.num_processes, args.training_script, args.module) == (2, "isheep.trainers.worker", True)
    if strategy == "fsdp":
        from accelerate.utils.launch import prepare_multi_gpu_env

        environment = prepare_multi_gpu_env(args)
        assert {key: environment[key] for key in ("FSDP_VERSION", "FSDP_STATE_DICT_TYPE", "ACCELERATE_USE_FSDP")} == {
            "FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "ACCELERATE_USE_FSDP": "true",
        }  # fmt: skip
    if strategy == "zero3":
        assert (args.zero_stage, args.zero3_save_16bit_model, args.offload_param_device) == (3, True, "none")


SRUN = """#!/usr/bin/env python3
import os, subprocess, sys
nodes, command = int(sys.argv[2]), sys.argv[7:]
assert sys.argv[1:7] == ["--nodes", str(nodes), "--ntasks", str(nodes), "--ntasks-per-node", "1"]
processes = [subprocess.Popen(command, env=os.environ | {"SLURM_PROCID": str(n)}) for n in range(nodes)]
sys.exit(max(process.wait() for process in processes))
"""


@pytest.mark.numeric
@pytest.mark.slow
def test_two_nodes(qwen2: Path, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script in place of srun runs the command once for each node, both on this machine."""
    monkeypatch.setattr("socket.gethostname", lambda: "127.0.0.1")
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    train(qwen2, tmp_path / "two", nodes=2)
    assert_same(single, tmp_path / "two", 1e-5)
