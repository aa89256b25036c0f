"""isheep plan: its sums against real models, its tokens against the rows of a real run, and what it refuses."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import isheep as package
from isheep.models.chat_template import load_chat_template
from isheep.plan import cost, shapes
from isheep.plan.assumptions import token_counter
from isheep.plan.work import Stage
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Pair, Reply
from isheep.rundir.events import read_events
from isheep.rundir.folder import RunFolder
from isheep.stages.respond import render_response_prompt
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.command import isheep, refused
from tests.helpers.function_model import write_texts

RECIPE = """
model: {model}
iterations: 1
synthesis:  {{tasks: 6, examples: 1, rules: false, novelty: null, batch_size: 4,
             sampling: {{max_tokens: 64, stop: [e]}}}}
response:   {{batch_size: 4, sampling: {{max_tokens: 12}}}}
assessment: {{batch_size: 4, sampling: {{max_tokens: 6}}}}
filters:    []
training:   {{epochs: 2, batch_size: 2, cutoff: 256, warmup_steps: 0, held_out: 0.2}}
machine:    {{threads: 1, device: cpu}}
"""
SEVENTY = ("paper/qwen1.5-72b", "--gpu", "A100-80")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    model = make_checkpoint(folder / "qwen2", "Qwen2", max_position_embeddings=1024)
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(model=model))
    return path


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    out = recipe.with_name("run")
    assert isheep("run", recipe, "--out", out).code == 0
    return out


def planned(*words: str | Path) -> dict[str, Any]:
    done = isheep("plan", *words, "--json")
    assert done.code == 0, done.err
    plan: dict[str, Any] = json.loads(done.out)
    return plan


def stage(plan: dict[str, Any], name: str, iteration: int = 1) -> dict[str, Any]:
    (match,) = (entry for entry in plan["stages"] if (entry["iteration"], entry["name"]) == (iteration, name))
    return dict(match)


# --- shapes

CONFIGS = {
    "Qwen2": {},
    "Llama": {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    "Mistral": {"head_dim": 24, "num_key_value_heads": 1},
    "Qwen3": {"head_dim": 16, "num_key_value_heads": 4, "tie_word_embeddings": False},
}


@pytest.mark.parametrize("architecture", CONFIGS)
def test_parameters_are_those_of_a_real_model(architecture: str) -> None:
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    size = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    more = {"vocab_size": 400, "num_key_value_heads": 2, **CONFIGS[architecture]}
    config = getattr(transformers, f"{architecture}Config")(**(size | more))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
        shape = shapes.from_config(config.to_dict(), architecture)
        assert shape.parameters == model.num_parameters()
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"))
    assert shape.lora(8) == sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


def test_parameters_agree_with_the_names() -> None:
    for name, config in shapes.known_configs().items():
        ((size, unit),) = re.findall(r"-([\d.]+)([BM])(?=-|$)", name)
        # The 7B has 7.7 billion.
        expected = float(size) * {"B": 1e9, "M": 1e6}[unit]
        assert shapes.from_config(config, name).parameters == pytest.approx(expected, rel=0.12), name


def test_the_recipes_models_are_known() -> None:
    root = Path(__file__).parents[1] / "recipes"
    models = {yaml.safe_load(path.read_text()).get("model") for path in root.rglob("*.yaml")} - {None, "lamb"}
    assert models and models <= set(shapes.known_configs())


def row_stage(tokens: float, **changes: Any) -> Stage:
    """Return a stage that reads one row of some tokens."""
    stage = Stage(
        iteration=1, name="", calls=1, prompt_tokens=tokens, computed_tokens=tokens, output_tokens=0,
        max_output_tokens=0, batch_size=1,
    )  # fmt: skip
    return stage.model_copy(update=changes)


def test_flops_and_cache_are_those_of_a_real_model(qwen2: Path) -> None:
    """Attention is counted over the whole square there, over its half here."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    shape, tokens = shapes.shape_of(str(qwen2)), 40
    model = AutoModelForCausalLM.from_pretrained(qwen2, attn_implementation="eager")
    ids = torch.ones(1, tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as counted:
        out = model(ids, use_cache=True)
    looked = 4 * shape.layers * shape.heads * shape.width * tokens * tokens
    assert counted.get_total_flops() == pytest.approx(
        cost.reading_flops(row_stage(tokens, all_logits=True), shape) + looked / 2, rel=0.01
    )
    kept = sum(layer.keys.numel() + layer.values.numel() for layer in out.past_key_values.layers)
    assert kept == tokens * shape.cache

    for parameter in model.parameters():
        parameter.requires_grad = False
    model.get_input_embeddings().weight.requires_grad = False
    model.enable_input_require_grads()  # as an adapter in the first layer does
    with FlopCounterMode(display=False) as counted:
        model(ids, labels=ids, use_cache=False).loss.backward()
    trained = cost.training_flops(row_stage(0, trained_tokens=tokens), shape, recompute=False)
    assert counted.get_total_flops() == pytest.approx(trained + 3 * looked / 2, rel=0.02)


# --- tokens


def test_tokens_are_those_of_the_run(recipe: Path, run: Path) -> None:
    plan, folder = planned(recipe, "--from", run), RunFolder(run / "iter-1", run)
    count, _ = token_counter(yaml.safe_load(recipe.read_text())["model"])
    replies, pairs = folder.read("replies.jsonl", Reply), folder.read("pairs.jsonl", Pair)
    rated = folder.read("assessed.jsonl", AssessedPair)
    instructions, answers, ratings = (stage(plan, name) for name in ("instructions", "answers", "ratings"))
    assert answers["calls"] == len(pairs) == 6 and 0 <= len(replies) - instructions["calls"] <= 4  # whole batches
    assert ratings["calls"] == 2 * len(pairs)
    mean = sum(reply.tokens for reply in replies) / len(replies)
    assert instructions["output_tokens"] == pytest.approx(instructions["calls"] * mean)
    assert answers["output_tokens"] == pytest.approx(sum(pair.tokens for pair in pairs))
    grades = [grade.reply for pair in rated for grade in pair.grades.values()]
    assert ratings["output_tokens"] == pytest.approx(sum(min(count(text) + 1, 6) for text in grades))
    settings = Recipe.model_validate(yaml.safe_load((run / "recipe.yaml").read_text()))
    chat = load_chat_template(settings.chat_template, settings.model)
    assert answers["prompt_tokens"] == pytest.approx(
        sum(count(render_response_prompt(pair, chat, settings.response)) for pair in pairs), rel=0.05
    )
    assert answers["max_output_tokens"] == 12 * 6
    assert instructions["max_output_tokens"] == 5 * 6 * 64 >= instructions["output_tokens"]


def test_rows_of_a_training_are_those_of_the_run(recipe: Path, run: Path) -> None:
    plan = planned(recipe, "--from", run)
    rows = json.loads((run / "iter-1" / "adapter" / "training.json").read_text())["rows"]
    assert stage(plan, "training")["calls"] == 2 * rows["trained"]
    assert set(plan["time_factors"]) == {"instructions", "answers", "ratings", "training"}
    assert all(math.isfinite(value) and value > 0 for value in plan["time_factors"].values())
    sources = plan["assumptions"]["1"]["sources"]
    assert sources["answer"] == "measured" and sources["prompt"] == "counted" and sources["reading"] == "assumed"


def test_the_seconds_of_the_same_run_come_back(recipe: Path, run: Path) -> None:
    plan = planned(recipe, "--from", run)
    events = [json.loads(line) for line in (run / "run.jsonl").read_text().splitlines()]
    taken = {event["file"]: event["seconds"] for event in events if "seconds" in event}
    assert stage(plan, "answers")["seconds"] == pytest.approx(taken["iter-1/pairs.jsonl"], rel=1e-3)
    assert stage(plan, "training")["seconds"] == pytest.approx(taken["iter-1/adapter"], rel=1e-3)


def test_given_numbers_win(recipe: Path, run: Path) -> None:
    plan = planned(recipe, "--from", run, "--assume", "answer=5", "--assume", "tasks=0.5", "--gpu", "T4")
    assert stage(plan, "answers")["output_tokens"] == 30 and stage(plan, "instructions")["calls"] == 12
    assert plan["assumptions"]["1"]["sources"]["answer"] == "given" and not plan["time_factors"]  # measured elsewhere


def test_what_an_iteration_does_otherwise_is_planned_so() -> None:
    words = ("lamb/dromedary", "--gpu", "L4")
    plan = planned(*words)
    names = [[entry["name"] for entry in plan["stages"] if entry["iteration"] == t] for t in (1, 2)]
    assert names[0][:2] == ["instructions", "answers"] and names[1][0] == "answers"  # its tasks are iteration 1's
    assert plan["assumptions"]["1"]["turn"] != plan["assumptions"]["2"]["turn"]
    assert "iteration 2" in isheep("plan", *words).out


@pytest.mark.parametrize(
    ("name", "words", "calls"),
    [
        ("measures for filters", ["filters=[{kind: perplexity}]"], 2 * 6),
        ("measures for filters", ["filters=[{kind: density, clusters: 2}]"], 6),
        ("measures for filters", ["filters=[{kind: agreement, samples: 3}]"], 3 * 6),
        ("answers", ["response.prompt=instances", "synthesis.inputs=false", "response.examples=2"], 3 * 6),
        ("training", ["training.max_steps=5"], 10),
        ("training", ["training.num_rows=4"], 6),
    ],
)
def test_settings_change_the_calls(recipe: Path, name: str, words: list[str], calls: int) -> None:
    plan = planned(recipe, *words, "--gpu", "L4", "--assume", "kept=1", "--assume", "tasks=1")
    assert stage(plan, name)["calls"] == calls


def test_a_sample_of_the_stop_rules_benchmark_is_planned(recipe: Path) -> None:
    words = ["evaluation=[{name: humaneval, data: x, num_items: 10}]", "stop={benchmark: humaneval}", "iterations=2"]
    plan = planned(recipe, *words, "--gpu", "L4")
    # Of both halves.
    assert [entry["calls"] for entry in plan["stages"] if entry["name"] == "evaluation"] == [10] * 6


def test_replicas_share_what_they_can() -> None:
    single, fourfold = (planned(*SEVENTY, f"machine.replicas={n}", "synthesis.generated=2") for n in (1, 4))
    shares = {s["name"]: s["seconds"] / f["seconds"] for s, f in zip(single["stages"], fourfold["stages"], strict=True)}
    assert shares["answers"] == shares["ratings"] == pytest.approx(4)
    assert shares["instructions"] == shares["training"] == pytest.approx(1)
    assert "4 replicas generate" in isheep("plan", *SEVENTY, "machine.replicas=4").out


# --- what it says


@pytest.mark.parametrize("words", [("lamb",), SEVENTY, ("lamb/table4", "--gpu", "RTX 4090"), ("lamb/one-base",)])
def test_tables_are_80_columns_wide(words: tuple[str, ...], run: Path) -> None:
    done = isheep("plan", *words, *(["--from", run] if words == ("lamb/one-base",) else []))
    assert done.code == 0 and max(map(len, done.out.splitlines())) <= 80
    assert "FLOP" in done.out and "time" in done.out


def test_what_does_not_fit_is_said_and_a_way_out_works() -> None:
    plan = planned(*SEVENTY)
    assert plan["devices_needed"] == plan["device"]["count"] == 8
    done = " ".join(isheep("plan", *SEVENTY, "--gpus", "4").out.split())
    words = re.search(
        r"It does not fit 4 x A100-80 .* needs 8 x A100-80; it fits with (machine\S+) (machine\S+)\.", done
    )
    assert words
    assert "It fits: 4 x A100-80" in isheep("plan", SEVENTY[0], *words.groups(), *SEVENTY[1:]).out
    count, settings = plan["smaller_setup"]
    assert count < 8 and planned(SEVENTY[0], *settings.split(), *SEVENTY[1:])["devices_needed"] == count
    none = isheep("plan", *SEVENTY, "--gpus", "1").out
    assert "It does not fit 1 x A100-80" in none and "it fits with" not in none


def test_a_sweep_counts_once_what_settings_share() -> None:
    plans = planned("lamb/table4", "--gpu", "L4")
    fingerprints = {name: {stage["fingerprint"] for stage in plan["stages"]} for name, plan in plans.items()}
    first = {name: stage(plan, "instructions")["fingerprint"] for name, plan in plans.items()}
    assert len(set(first.values())) == 1  # the first iteration's instructions, which all have from the base
    assert len({stage(plan, "instructions", 2)["fingerprint"] for plan in plans.values()}) == len(plans) == 4
    out = isheep("plan", "lamb/table4", "--gpu", "L4").out
    assert "it adds" in out and all(name in out for name in fingerprints)


def test_memory_is_that_of_the_rows_that_there_will_be(recipe: Path) -> None:
    """Six tasks in one epoch are one batch of at most six rows, however large the batch size of the recipe is."""
    words = ["training.batch_size=2048", "training.epochs=1", "training.cutoff=1024"]
    # On a CPU no more rows than have 1,024 tokens would be computed at once.
    small, large = (planned(recipe, f"synthesis.tasks={tasks}", *words, "--gpu", "L4") for tasks in (6, 600))
    assert stage(small, "training")["batch_size"] == 6 and stage(large, "training")["batch_size"] == 600
    assert sum(large["memory"]["training"].values()) > 10 * sum(small["memory"]["training"].values())
    # An answer has at most 12 tokens, so no row is as long as the cutoff.
    assert stage(small, "training")["max_row_tokens"] < 1024


def test_a_row_of_a_dialogue_holds_the_turns_before_it(recipe: Path) -> None:
    words = ["training.cutoff=1024", "--gpu", "L4", "--assume", "kept=1"]
    single, dialogue = (stage(planned(recipe, f"response.turns={turns}", *words), "training") for turns in (1, 2))
    # Two more texts of at most 12 tokens; twice as many rows, of which half have both turns.
    assert dialogue["max_row_tokens"] == single["max_row_tokens"] + 2 * 12
    assert dialogue["calls"] > 1.9 * single["calls"] and dialogue["trained_tokens"] > 2.3 * single["trained_tokens"]


def test_prompts_with_examples_of_their_own_are_all_computed(recipe: Path) -> None:
    plans = [planned(recipe, f"synthesis.examples_for={name}", "--gpu", "L4") for name in ("batch", "prompt")]
    shared, single = (stage(plan, "instructions") for plan in plans)
    assert shared["shares_prompt"] and not single["shares_prompt"]
    assert shared["computed_tokens"] < single["computed_tokens"] == single["prompt_tokens"]


def test_a_cpu_that_is_too_small_is_said_once() -> None:
    out = " ".join(isheep("plan", "paper/qwen1.5-72b", "machine.device=cpu").out.split())
    assert out.count("not fit") == 1 and "It does not fit this CPU" in out


def test_status_compares_the_plan_with_what_happened(recipe: Path, run: Path) -> None:
    out = isheep("status", run).out
    assert "training, all epochs" in out
    assert max(map(len, out[out.index("plan and reality") : out.index("iteration 1: ")].splitlines())) <= 80
    rows = {row["stage"]: row for row in json.loads(isheep("status", run, "--json").out)["plan_and_reality"]}
    plan = planned(recipe)
    assert set(rows) == {"instructions", "answers", "ratings", "training"}
    for name, row in rows.items():
        calls = 2 if name == "ratings" else 1
        assert row["planned_rows"] == pytest.approx(stage(plan, name)["calls"] / calls) and row["rows"] > 0
        assert row["planned_tokens"] == pytest.approx(stage(plan, name)["output_tokens"])
        assert row["seconds"] > 0 and row["planned_seconds"] > 0
    pairs = RunFolder(run / "iter-1", run).read("pairs.jsonl", Pair)
    assert rows["answers"]["rows"] == len(pairs) and rows["answers"]["tokens"] == sum(pair.tokens for pair in pairs)
    assert rows["ratings"]["tokens"] is None


@pytest.mark.slow
def test_runs_of_a_sweep_and_from_python_have_a_plan_too(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    settings = package.load_recipe(recipe)
    package.align(settings, out / "first").run()
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(f"like: {recipe}\ngrid: {{training.epochs: [1, 3]}}\n")
    assert isheep("sweep", sweep, "--out", out).code == 0
    values = json.loads(isheep("status", out, "--json").out)
    names = ["first", "training.epochs=1", "training.epochs=3"]
    assert list(values["runs"]) == names
    total = {row["stage"]: row for row in values["plan_and_reality"]}
    for stage_name, row in total.items():
        rows = [row for run in values["runs"].values() for row in run["plan_and_reality"] if row["stage"] == stage_name]
        assert row["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))
        assert row["rows"] == sum(row["rows"] for row in rows)
        # Instructions, answers and ratings are shared: one run has made them.
        assert len(rows) == (3 if stage_name == "training" else 1)
    printed = isheep("status", out).out
    assert "plan, all runs" in printed and max(map(len, printed.splitlines()[1:])) <= 80
    assert all(f"{name}: 1 of 1 iterations are trained" in printed for name in names)
    assert "--full is for a single run" in refused("status", out, "--full")


def test_a_run_with_an_engine_from_python_has_no_plan(recipe: Path, tmp_path: Path) -> None:
    """Its speed is not this machine's."""
    few = {"training.max_steps": 1, "synthesis.rules": False}
    package.align(package.load_recipe(recipe, few), tmp_path, engine=write_texts).run()
    assert not [event for event in read_events(tmp_path) if "plan" in event]


# --- what it refuses


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lamb", "--gpu", "A100"], "GPU 'A100' is not known: did you mean A100-40 or A100-80?"),
        (["lamb", "--gpu", "RTX4080"], "RTX-4090"),
        (["lamb", "--gpu", "abacus"], "take one of A10, A100-40"),
        (["lamb", "--gpu", ""], "take one of A10"),
        (["lamb", "--gpus", "2", "machine.device=cpu"], "--gpus 2: this CPU"),
        (["lamb", "--gpu", "L4", "model=/no/such"], "model '/no/such' not found"),
        (["lamb", "--assume", "answr=3"], "did you mean answer?"),
        (["lamb", "--assume", "answer"], "write key=number"),
        (["lamb", "--assume", "answer=nan", "--gpu", "L4"], "answer=nan"),
        (["lamb", "--assume", "kept=1.5", "--gpu", "L4"], "kept=1.5"),
        (["lamb", "--gpu", "L4", "--from", "docs"], "is not a run folder"),
        (["lamb", "syntesis.tasks=3", "--gpu", "L4"], "did you mean 'synthesis'?"),
    ],
)
def test_what_is_refused(words: list[str], message: str) -> None:
    assert message in refused("plan", *words)


def test_an_unknown_name_gets_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "did you mean Qwen/Qwen1.5-72B?" in refused("plan", "--gpu", "H100", "--model", "Qwen/Qwen1.5-72")


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]})
    )
    assert "is a mixtral: a plan knows dense decoders only" in refused(
        "plan", "lamb", f"model={tmp_path}", "--gpu", "L4"
    )


def test_a_run_that_has_written_nothing_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: lamb")
    (tmp_path / "version.json").write_text('{"format": 2}')
    assert "tells nothing yet" in refused("plan", "lamb", "--gpu", "L4", "--from", tmp_path)
