"""Training in several processes, and the settings that change how but not what is learned."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from isheep import api, backends
from isheep.errors import UserError
from isheep.models.adapter_files import WEIGHTS
from isheep.models.chat_template import load_chat_template
from isheep.recipe.schema import Lora, Machine, Recipe, Training
from isheep.records import Model, Pair
from isheep.trainers import launch
from isheep.trainers.fit import _places
from isheep.trainers.job import Job
from isheep.trainers.peft import train
from isheep.trainers.rows import TokenizedRow

ROOT = Path(__file__).parents[1]
TRAINING = Training(
    epochs=2, batch=4, eval_every=3, learning_rate=5e-3, warmup_steps=2, lora=Lora(rank=4, dropout=0), held_out=0.2
)
PAIRS = [
    Pair(id=str(n), instruction=f"Say {n}", output=f"It is {n}." * (1 + n % 3), finish="stop", tokens=4, seed=n)
    for n in range(21)
]


def trained(base: Path, into: Path, training: Training = TRAINING, **machine: Any) -> Any:
    """training.json of a training into the folder `into`."""
    chat = load_chat_template("tokenizer", str(base))
    train(Model(str(base)), PAIRS, chat, training, 7, into, Machine(threads=1, device="cpu", **machine))
    return json.loads((into / "training.json").read_text())


@pytest.fixture(scope="module")
def one(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes."""
    into = tmp_path_factory.mktemp("trained") / "one"
    trained(qwen2, into)
    return into


def assert_same(one: Path, other: Path, rel: float) -> None:
    """Losses and weights; what comes of the base's own bytes is the same to the last one."""
    told = [json.loads((folder / "training.json").read_text()) for folder in (one, other)]
    for name in ("loss", "eval_loss"):
        assert [step for step, _ in told[0][name]] == [step for step, _ in told[1][name]]
        assert [loss for _, loss in told[0][name]] == pytest.approx([loss for _, loss in told[1][name]], rel=rel)
    weights = [load_file(folder / WEIGHTS) for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        assert weights[0][name] == pytest.approx(weights[1][name], rel=100 * rel, abs=100 * rel)
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    for name in ("adapter_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


# --- the rows of each step


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 40), st.integers(1, 12), st.integers(2, 5), st.integers(1, 2))
def test_every_step_has_its_rows_with_any_number_of_processes(rows: int, batch: int, gpus: int, epochs: int) -> None:
    """The rows of a step are those of one process, and what fills it up has no loss; all processes read as many."""
    train = [TokenizedRow([1] * (1 + n % 7), [1]) for n in range(rows)]
    held_out = train[: rows // 3]
    machine, training = Machine(gpus=gpus), Training(batch=batch, epochs=epochs)
    job = Job(
        model=Model("lamb"), train=train, held_out=held_out, pad="x", training=training, seed=1, machine=machine,
        into=Path(),
    )  # fmt: skip
    places, aside = _places(job)
    size = job.at_once * gpus * job.rounds
    assert batch <= size < batch + job.at_once * gpus and len(places) == size * job.steps
    kept = [[place for place in places[n : n + size] if place < rows] for n in range(0, len(places), size)]
    assert kept == [job.places[n : n + batch] for n in range(0, len(job.places), batch)]
    assert [place for place in aside if place < len(held_out)] == list(range(len(held_out)))
    assert len(aside) % batch == 0 and len(aside) - len(held_out) < batch


@pytest.mark.numeric
@pytest.mark.parametrize("machine", [{"packing": True}, {"gradient_checkpointing": True}, {"gpus": 2}])
def test_how_changes_nothing_of_what_is_learned(
    machine: dict[str, Any], qwen2: Path, one: Path, tmp_path: Path
) -> None:
    trained(qwen2, tmp_path / "other", **machine)
    assert_same(one, tmp_path / "other", 1e-5)


@pytest.mark.numeric
@pytest.mark.slow
@pytest.mark.parametrize("machine", [{"gpus": 3}, {"gpus": 2, "rows": 1}])
def test_processes_that_a_batch_of_four_is_not_even_on(
    machine: dict[str, Any], qwen2: Path, one: Path, tmp_path: Path
) -> None:
    """The same losses in training; held-out ones are means over batches of `rows`, with one process too."""
    if "rows" in machine:
        one = tmp_path / "one"
        trained(qwen2, one, rows=machine["rows"])
    trained(qwen2, tmp_path / "other", **machine)
    assert_same(one, tmp_path / "other", 1e-5)


@pytest.mark.numeric
@pytest.mark.slow
def test_weights_in_shards(qwen2: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP by its configuration, in two processes on the CPU: it computes in bfloat16, and learns the same."""
    whole = launch.command

    def command(job: Job) -> list[str]:
        *words, module, name, path = whole(job)
        assert (module, name) == ("-m", "isheep.trainers.worker") and any("fsdp.yaml" in word for word in words)
        return [*words, str(ROOT / "tests/fsdp_worker.py"), path]

    monkeypatch.setattr(launch, "command", command)
    trained(qwen2, tmp_path / "shards", gpus=2, strategy="fsdp")
    losses = [json.loads((into / "training.json").read_text())["loss"] for into in (one, tmp_path / "shards")]
    assert losses[0] != losses[1]  # bfloat16
    assert [loss for _, loss in losses[0]] == pytest.approx([loss for _, loss in losses[1]], rel=5e-3)
    weights = [load_file(into / WEIGHTS) for into in (one, tmp_path / "shards")]
    assert weights[0].keys() == weights[1].keys()
    for name, matrix in weights[0].items():
        assert matrix == pytest.approx(weights[1][name], abs=0.03)


# --- what goes wrong


def test_a_process_that_fails_is_told_in_one_line(qwen2: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in qwen2.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    (base / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError) as raised:
        trained(base, tmp_path / "into", gpus=2)
    said = str(raised.value)
    assert "\n" not in said and "training in 2 processes ended with status 1: UserError: model" in said
    assert str(tmp_path / "into" / launch.LOG) in said and "Traceback" in (tmp_path / "into" / launch.LOG).read_text()


SCRIPT = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
sys.path.insert(0, {tests!r})
from test_scale import TRAINING, trained
trained(Path({base!r}), Path({into!r}), TRAINING.model_copy(update={{"epochs": {epochs}}}), gpus=2)
"""


def started(base: Path, into: Path, epochs: int) -> "subprocess.Popen[bytes]":
    words = SCRIPT.format(tests=str(ROOT / "tests"), base=str(base), into=str(into), epochs=epochs)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", words], env=environment, stderr=subprocess.DEVNULL)


def until(condition: Any, process: "subprocess.Popen[bytes]") -> None:
    """Wait for something that a running process brings about."""
    while not condition():
        assert process.poll() is None
        time.sleep(0.05)


def workers(into: Path) -> list[psutil.Process]:
    """The processes that were started for a training, accelerate's own included."""
    job = str((into / launch.JOB).resolve())
    return [one for one in psutil.process_iter(["cmdline"]) if job in " ".join(one.info["cmdline"] or [])]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_and_made_again(how: signal.Signals, qwen2: Path, tmp_path: Path) -> None:
    """Nothing stays behind, and the same call ends with the bytes of an undisturbed one."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    epochs = 8
    process = started(qwen2, stopped, epochs)
    until(lambda: list(stopped.glob("checkpoint-*/complete")), process)
    running = workers(stopped)
    assert len(running) >= 3  # accelerate's, and one for each
    process.send_signal(how)
    process.wait()
    psutil.wait_procs(running, timeout=60)
    assert workers(stopped) == []
    assert not (stopped / "training.json").exists() and list(stopped.glob("checkpoint-*/complete"))
    for into in (stopped, whole):
        assert started(qwen2, into, epochs).wait() == 0
    assert {path.name for path in whole.iterdir()} == {path.name for path in stopped.iterdir()}
    assert all((stopped / path.name).read_bytes() == path.read_bytes() for path in whole.iterdir())


def test_a_checkpoint_of_another_strategy_is_not_gone_on_from(qwen2: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "checkpoint-3" / "complete").touch()  # no optimizer.pt, as FSDP leaves it
    with pytest.raises(UserError, match="another machine.strategy than ddp: set it back"):
        trained(qwen2, tmp_path)


# --- LLaMA-Factory, where something else stands for its command

CLI = """#!{python}
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


def test_llamafactory_is_given_its_files_and_its_adapter_is_taken(
    qwen2: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llamafactory-cli").write_text(CLI.format(python=sys.executable))
    (tmp_path / "llamafactory-cli").chmod(0o755)
    recipe = Recipe(
        model=str(qwen2), training=TRAINING, machine=Machine(trainer="llamafactory", threads=1, device="cpu")
    )
    with pytest.raises(UserError, match="needs llamafactory-cli, which is not installed"):
        backends.check_training(recipe)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    backends.check_training(recipe)
    chat, into = load_chat_template("tokenizer", str(qwen2)), tmp_path / "into"
    with pytest.raises(UserError, match="llamafactory-cli ended with status 1: no memory left; what it wrote is in"):
        backends.train(recipe, chat, Model(str(qwen2)), PAIRS, 7, into)
    backends.train(recipe, chat, Model(str(qwen2)), PAIRS, 7, into)
    assert {path.name for path in into.iterdir()} == {path.name for path in one.iterdir()}
    told, ours = (json.loads((folder / "training.json").read_text()) for folder in (into, one))
    assert told.keys() == ours.keys() and told["rows"] == ours["rows"] and told["eval_loss"] == [[9, 2.5]]


# --- what is refused, and the commands


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ("gpus: 32", "machine.gpus: 32 processes are more than a training.batch of 16 rows, 1 at once has work for"),
        ("gpus: 5, rows: 4", "machine.gpus: 5 processes are more than a training.batch of 16 rows, 4 at once"),
        ("rows: 3", "machine.rows: 3 does not divide training.batch 16"),
        ("strategy: fsdp", "machine.strategy: fsdp is for more than one GPU"),
        ("gpus: 2, device: 'cuda:1'", "machine.device: cuda:1 is one GPU"),
        ("gpus: 2, strategy: zero3, device: cpu", "machine.strategy: zero3 needs GPUs"),
    ],
)
def test_what_can_not_work_is_told_before_anything(machine: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"model: lamb\nseed_tasks: lamb\nmachine: {{{machine}}}\n")
    with pytest.raises(UserError) as raised:
        api.load_recipe(tmp_path / "r.yaml", [])
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"training": {"quantize": "nf4"}}, "quantize: nf4 needs CUDA and bitsandbytes"),
        ({"machine": {"gpus": 2, "strategy": "fsdp"}}, "fsdp needs CUDA"),
        ({"machine": {"gpus": 2, "nodes": 2}}, "machine.nodes is 2: more than one node needs srun"),
    ],
)
def test_what_this_machine_can_not_do(settings: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match=said):
        launch.check_training_machine(Recipe.model_validate({"model": "lamb", **settings}))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero3"])
def test_accelerate_takes_our_configurations(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As accelerate launch reads them: to what is in the processes' environment."""
    from accelerate.commands import launch as theirs

    found: list[Any] = []
    for name in ("multi_gpu_launcher", "deepspeed_launcher"):
        monkeypatch.setattr(theirs, name, lambda args, name=name: found.append((name, args)))
    job = Job(
        model=Model("lamb"), train=[], held_out=[], pad="x", training=Training(), seed=1,
        machine=Machine(gpus=2, strategy=strategy, threads=1), into=Path("into"),
    )  # fmt: skip
    words = launch.command(job)
    assert words[1:3] == ["-m", "accelerate.commands.launch"]
    theirs.launch_command(theirs.launch_command_parser().parse_args(words[3:]))
    ((name, args),) = found
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
nodes, words = int(sys.argv[2]), sys.argv[7:]
assert sys.argv[1:7] == ["--nodes", str(nodes), "--ntasks", str(nodes), "--ntasks-per-node", "1"]
started = [subprocess.Popen(words, env=os.environ | {"SLURM_PROCID": str(n)}) for n in range(nodes)]
sys.exit(max(process.wait() for process in started))
"""


@pytest.mark.numeric
@pytest.mark.slow
def test_two_nodes(qwen2: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """srun stands for itself: it starts the command once for each node, both on this machine."""
    monkeypatch.setattr("socket.gethostname", lambda: "127.0.0.1")
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    trained(qwen2, tmp_path / "two", nodes=2)
    assert_same(one, tmp_path / "two", 1e-5)
