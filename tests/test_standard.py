"""The standard benchmarks: files of every form, OpenCompass's rules and lm-eval's on our engine, never mixed."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from isheep.benchmarks import load_benchmark
from isheep.benchmarks.standard import squad2
from isheep.benchmarks.support.options import mean_losses
from isheep.engines.transformers import open_engine
from isheep.errors import UserError
from isheep.evaluation.results import read_result
from isheep.recipe.benchmark_names import packaged_names
from isheep.records import Model
from tests.helpers.benchmark_files import write_benchmark
from tests.helpers.command import isheep
from tests.helpers.data_files import DATA
from tests.helpers.standard_tasks import TASKS, Liking, exam, load, paper_task, settings_of, source_of

# --- the paper's protocol


RIGHT = {  # what only the right option's text holds
    "boolq": ["cold?\nAnswer: Yes", "fire cold?\nAnswer: No"],
    "piqa": ["bread? With a knife", "Cut use a saw"],
    "siqa": ["tall\nAnswer: B", "lost\nAnswer: A"],
    "hellaswag": ["dough. He bakes it.", "Water boils. Pour. It is tea."],
    "winogrande": ["and cup broke", "as the cat was"],
    "arc_easy": ["rain\nB. light\nC. sound\nD. time\nAnswer: A", "cow\nAnswer: C"],
    "openbookqa_fact": ["We know the fact that heat melts ice.", "cup\n\nAnswer: B"],
    "commonsense_qa": ["Question: Where is milk?\nAnswer: \ncow", "Question: Where is ink?\nAnswer: \npen"],
    "mmlu": ["D. fast\nAnswer: A", "D. old\nAnswer: B"],
}


@pytest.mark.parametrize("name", RIGHT)
def test_options_by_the_loss_of_the_whole_prompt(tmp_path: Path, qwen2: Path, name: str) -> None:
    path = write_benchmark(tmp_path / "data", name)
    engine = Liking(RIGHT[name])
    result = load_benchmark(f"paper/{name}").run(exam(tmp_path, engine, qwen2, path))
    right = result.scores["accuracy"].items
    assert right == [True] * len(right) and result.details["protocol"] == "paper" and result.template == "plain"
    wrong = load_benchmark(f"paper/{name}").run(exam(tmp_path / "2", Liking([]), qwen2, path))
    assert wrong.scores["accuracy"].items == [
        entry.item.right == 0 for entry in paper_task(name).load_shots(settings_of(name, path))
    ]
    assert bool(result.notes) == (name not in ("piqa", "commonsense_qa"))


def test_examples_stand_before_an_item_as_opencompass_joins_them(tmp_path: Path, qwen2: Path) -> None:
    engine = Liking([])
    load_benchmark("paper/mmlu").run(exam(tmp_path, engine, qwen2, write_benchmark(tmp_path / "data", "mmlu")))
    first = engine.read[2]
    assert first.startswith(
        "The following are multiple choice questions (with answers) about  anatomy.\n\n"
        "Example 0\nA. one\nB. two\nC. three\nD. four\nAnswer: A\n\nExample 1\n"
    )
    assert first.endswith("Example 4\nA. one\nB. two\nC. three\nD. four\nAnswer: A\n\n"
                          "Bones are\nA. hard\nB. wet\nC. loud\nD. fast\nAnswer: B")  # fmt: skip
    assert "college physics" in engine.read[5] and "Example 5" not in first
    engine = Liking([])
    load_benchmark("paper/commonsense_qa").run(
        exam(tmp_path / "2", engine, qwen2, write_benchmark(tmp_path / "c", "commonsense_qa"))
    )
    assert engine.read[1].startswith("Question: Example 0?\nAnswer: \n0c\n\n\nQuestion: Example 1?")
    assert engine.read[1].endswith("7c\n\n\n\n\nQuestion: Where is milk?\nAnswer: \ncow")


def test_an_aligned_model_reads_its_template(tmp_path: Path, qwen2: Path, llama: Path) -> None:
    engine = Liking([])
    result = load_benchmark("paper/siqa").run(
        exam(tmp_path, engine, qwen2, write_benchmark(tmp_path / "s", "siqa"), base=False)
    )
    assert result.template == "qwen" and engine.read[1] == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nAnn fell.\n"
        "Question: How is Ann?\nA. glad\nB. hurt\nC. tall<|im_end|>\n<|im_start|>assistant\nAnswer: A<|im_end|>\n"
    )
    engine = Liking([])
    entry = exam(tmp_path / "2", engine, llama, write_benchmark(tmp_path / "m", "mmlu"), base=False, chat="llama3")
    load_benchmark("paper/mmlu").run(entry)
    assert engine.read[1].count("<|start_header_id|>") == 12 and "about  anatomy.\n\nExample 0" in engine.read[1]
    assert engine.read[1].endswith("\n\nAnswer: A<|eot_id|>")
    read: list[str] = []
    prompts_seen = exam(
        tmp_path / "3",
        Liking([], lambda p: read.append(p) or ""),  # type: ignore[func-returns-value]
        qwen2,
        write_benchmark(tmp_path / "n", "nq"),
        base=False,
    )
    load_benchmark("paper/nq").run(prompts_seen)
    assert read[0].endswith("Q: who wrote it?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("name", "answers", "right"),
    [
        ("nq", [" The answer is Ann Lee, of course.\nQ: more", "In 1972"], [True, True]),
        ("nq", ["Lee", "\n1972."], [False, True]),
        ("triviaqa", ["a: the Ann", "The answer is not known. 1972"], [True, False]),
        ("triviaqa", ["Answer: Annie", "It was in the year 1972"], [True, True]),
        ("squad2", ["The answer is Ann.", "impossible to answer"], [True, True]),
        ("squad2", ["Ann Lee", "The sheep"], [False, True]),
        ("squad2", ["\nAnn", ""], [False, False]),
        ("gpqa_diamond", ["The correct answer is (D)", "So the answer is **C**, not A."], [True, True]),
        ("gpqa_diamond", ["D", "I can't tell"], [True, False]),
    ],
)
def test_written_answers(tmp_path: Path, qwen2: Path, name: str, answers: list[str], right: list[bool]) -> None:
    message = iter(answers)
    entry = exam(tmp_path, Liking([], lambda prompt: next(message)), qwen2, write_benchmark(tmp_path / "data", name))
    result = load_benchmark(f"paper/{name}").run(entry)
    assert next(iter(result.scores.values())).items == right
    if name == "gpqa_diamond":
        assert result.details["unreadable"] == ("I can't tell" in answers)


def test_gpqa_turns_its_options_with_the_number(tmp_path: Path) -> None:
    row = load("gpqa_diamond", write_benchmark(tmp_path, "gpqa_diamond"))[0]
    turned = [paper_task("gpqa_diamond").prepare(row, number) for number in (1, 2, 3, 4)]
    assert [entry and entry.right for entry in turned] == [3, 2, 1, 0]
    assert all(entry and entry.fields["ABCD"[entry.right]] == "four" for entry in turned)
    assert turned[0] and [turned[0].fields[c] for c in "ABC"] == ["1 only", "2 only", "3 only"]


def test_what_does_not_fit_is_counted(tmp_path: Path, qwen2: Path) -> None:
    rows = [{"goal": "A too long one.", "sol1": "a", "sol2": "b", "label": 0}]
    rows += [{"goal": f"Do {n}", "sol1": "a", "sol2": "b", "label": 0} for n in range(20)]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    result = load_benchmark("paper/piqa").run(exam(tmp_path, Liking([]), qwen2, tmp_path / "p.json"))
    assert result.scores["accuracy"].items == [False] + [True] * 20 and result.details["too_long"] == 1
    (tmp_path / "p.json").write_text(json.dumps(rows[:1]))
    with pytest.raises(UserError, match="nothing fits"):
        load_benchmark("paper/piqa").run(exam(tmp_path / "2", Liking([]), qwen2, tmp_path / "p.json"))


@pytest.mark.numeric
def test_the_loss_is_that_of_opencompass(checkpoint: Path) -> None:
    """Computed here as its HuggingFace model does: the sum over all tokens but the first, by the number of all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    texts = ["The capital of France is Paris.", "What is 12 plus 30? It is 42!", "a"]
    with open_engine_closing(checkpoint) as engine:
        result = mean_losses(engine, texts, tokenizer)
    begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    for text, loss in zip(texts, result, strict=True):
        ids = tokenizer(text).input_ids
        read = ids if begins else [tokenizer.eos_token_id, *ids]  # what the engine starts from where there is no BOS
        with torch.no_grad():
            chances = model(torch.tensor([read])).logits[0, :-1].log_softmax(-1)
        token_losses = -chances.gather(1, torch.tensor(read[1:])[:, None])[:, 0]
        total = float((token_losses if begins else token_losses[1:]).sum()) / len(ids)
        assert loss is not None and math.isclose(loss, total, rel_tol=1e-4, abs_tol=1e-5)


def open_engine_closing(checkpoint: Path) -> Any:
    from contextlib import closing

    return closing(open_engine(Model(str(checkpoint)), threads=1, device="cpu"))


# --- the standard protocol


LIKED = {  # the continuations that lm-eval's tasks have for the right options
    "boolq": ["cold.\nQuestion: is snow cold?\nAnswer: yes", "fire cold?\nAnswer: no"],
    "piqa": ["bread?\nAnswer: with a knife", "Cut\nAnswer: use a saw"],
    "siqa": ["A: hurt", "Bob?\nA: glad"],
    "hellaswag": ["Baking: A man has dough. He bakes it.", "Tea: Water boils. Pour. It is tea."],
    "winogrande": ["and cup broke", "as the cat was"],
    "arc_easy": ["falls?\nAnswer: rain", "burns?\nAnswer: wood", "swims?\nAnswer: a fish"],
    "arc_challenge": ["falls?\nAnswer: rain", "burns?\nAnswer: wood", "swims?\nAnswer: a fish"],
    "openbookqa_fact": ["heat melts ice\nWhat melts ice", "plants grow\nWhat grows a plant"],
    "commonsense_qa": ["Where is milk?\nA. cow\nB. car\nC. sky\nD. sun\nE. ink\nAnswer: A", "pen\nAnswer: E"],
    "mmlu": ["D. fast\nAnswer: A", "D. old\nAnswer: B"],
}


@pytest.mark.parametrize("name", LIKED)
def test_lm_evals_tasks_on_local_files(tmp_path: Path, qwen2: Path, name: str) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: the extra eval")
    engine = Liking(LIKED[name])
    result = load_benchmark(f"standard/{name}").run(
        exam(tmp_path, engine, qwen2, write_benchmark(tmp_path / "data", name))
    )
    assert result.details["protocol"] == "standard" and result.template == "plain" and result.details["too_long"] == 0
    assert result.scores["acc"].items == [True] * (3 if "arc" in name or name == "mmlu" else 2), engine.read
    if name == "mmlu":
        assert result.breakdowns == {"subject": {"anatomy": (1, 1), "college_physics": (2, 2)}}


def test_lm_evals_gpqa_is_shuffled_once_and_the_same_way_again(tmp_path: Path, qwen2: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: the extra eval")
    engine, path = Liking([]), write_benchmark(tmp_path / "data", "gpqa_diamond")
    load_benchmark("standard/gpqa_diamond").run(exam(tmp_path, engine, qwen2, path))
    again = Liking([])
    load_benchmark("standard/gpqa_diamond").run(exam(tmp_path / "2", again, qwen2, path))
    assert engine.read == again.read and engine.read[1].endswith("\nAnswer: (A)")
    right = [f"({letter})" for text in engine.read[1::4] for letter in "ABCD" if f"({letter}) four" in text]
    liked = [text for text, letter in zip(engine.read[1::4], right, strict=True) for text in [text[:-3] + letter]]
    result = load_benchmark("standard/gpqa_diamond").run(exam(tmp_path / "3", Liking(liked), qwen2, path))
    assert result.scores["acc"].items == [True, True]


@pytest.mark.parametrize("name", ["nq", "triviaqa"])
def test_lm_evals_written_answers(tmp_path: Path, qwen2: Path, name: str) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: the extra eval")
    answers = iter([" Ann Lee\nmore", " 1973"])
    prompts_seen: list[str] = []

    def answer(prompt: str) -> str:
        prompts_seen.append(prompt)
        return next(answers)

    entry = exam(tmp_path, Liking([], answer), qwen2, write_benchmark(tmp_path / "data", name), base=False)
    assert load_benchmark(f"standard/{name}").run(entry).scores["exact_match"].items == [True, False]
    assert prompts_seen[0].startswith("<|im_start|>system") and prompts_seen[0].endswith("assistant\n")


@pytest.mark.numeric
def test_lm_eval_gets_the_log_probabilities_that_its_own_model_has(tmp_path: Path, checkpoint: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: the extra eval")
    from lm_eval.models.huggingface import HFLM

    from isheep.benchmarks.standard.siqa import TASK
    from isheep.benchmarks.support.engine_lm import EngineLM
    from isheep.benchmarks.support.lm_eval_tasks import run_tasks

    rows = load("siqa", write_benchmark(tmp_path / "data", "siqa"))
    with open_engine_closing(checkpoint) as engine:
        entry = exam(tmp_path, engine, checkpoint, None, chat="tokenizer")
        requests = TASK.load_tasks(rows)["social_iqa"]
        requests.build_all_requests()
        actual = EngineLM(entry).loglikelihood(requests.instances)
        reference = HFLM(pretrained=str(checkpoint), device="cpu", batch_size=1).loglikelihood(requests.instances)
        again = run_tasks(TASK.load_tasks(rows), EngineLM(entry))
    assert [pair[0] for pair in actual] == pytest.approx([pair[0] for pair in reference], rel=1e-4)
    assert [sample["resps"] for sample in again] == [[[pair] for pair in actual[n : n + 3]] for n in (0, 3)]


def test_too_long_for_lm_eval_is_wrong(tmp_path: Path, qwen2: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: the extra eval")
    rows = [{"goal": f"{subject} one.", "sol1": "a", "sol2": "b", "label": 0} for subject in ("A too long", "Some")]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    result = load_benchmark("standard/piqa").run(exam(tmp_path, Liking([]), qwen2, tmp_path / "p.json"))
    assert result.scores["acc"].items == [False, True] and result.details["too_long"] == 1


def test_without_lm_eval_it_is_said(tmp_path: Path, qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"pip install 'isheep\[eval\]'"):
        load_benchmark("standard/piqa").run(
            exam(tmp_path, Liking([]), qwen2, write_benchmark(tmp_path / "data", "piqa"))
        )


def test_squad_by_the_official_rules(tmp_path: Path, qwen2: Path) -> None:
    answers = iter([" the Ann!\nmore", " "])
    prompts_seen: list[str] = []

    def answer(prompt: str) -> str:
        prompts_seen.append(prompt)
        return next(answers)

    result = load_benchmark("standard/squad2").run(
        exam(tmp_path, Liking([], answer), qwen2, write_benchmark(tmp_path / "d", "squad2"))
    )
    assert {name: score.items for name, score in result.scores.items()} == {"exact": [True, True], "f1": [1.0, 1.0]}
    assert result.breakdowns["kind"] == {"answer in the passage": (1, 1), "no answer in the passage": (1, 1)}
    assert (
        prompts_seen[0] == "Title: Sheep\n\nBackground: The sheep, Ann, is white.\n\nQuestion: Who is white?\n\nAnswer:"
    )
    assert squad2.f1("a white sheep", ["The sheep, Ann"]) == 0.5 and not squad2.exact("unanswerable", [])
    assert squad2.f1("", ["Ann"]) == 0.0 and squad2.f1("Ann", []) == 0.0 and squad2.exact("The", ["!"])


# --- the originals, and the command line


@pytest.mark.skipif(not (DATA / "piqa").is_dir(), reason=f"no benchmark files: {DATA} (set ISHEEP_DATA)")
def test_the_originals_are_read() -> None:
    files = {
        "piqa": ("piqa", 1838), "nq": ("nq_open", 3610), "commonsense_qa": ("commonsenseqa", 1221),
        "squad2": ("squad2/cs224n_dev-v2.0.json", 6078),
    }  # fmt: skip
    for name, (file, count) in files.items():
        result = [paper_task(name).prepare(row, number) for number, row in enumerate(load(name, DATA / file), 1)]
        assert len(result) == count and all(entry and entry.right < len(entry.options) for entry in result)
        assert not source_of(name).notes


def test_every_task_names_its_source() -> None:
    assert {name for name in packaged_names() if "/" in name} == {
        f"{protocol}/{name}" for protocol in ("paper", "standard") for name in TASKS
    }
    for name in TASKS:
        result = paper_task(name).template
        assert result.source.startswith("open-compass/opencompass, configs/") and result.licence == "Apache-2.0"
        assert paper_task(name).name == load_benchmark(f"paper/{name}").name == f"paper/{name}"
        assert load_benchmark(f"standard/{name}").name == f"standard/{name}"


@pytest.mark.slow
def test_a_run_with_both_protocols(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path / "data", "piqa")
    words = ["iterations=1", "synthesis.tasks=8", "synthesis.sampling.max_tokens=200", "training.max_steps=1"]
    expected = [{"name": f"{protocol}/piqa", "data": str(path)} for protocol in ("paper", "standard")]
    words += ["assessment=null", "filters=[]", f"evaluation={json.dumps(expected[: 1 + _has_lm_eval()])}"]
    done = isheep("run", "lamb", "--out", tmp_path / "run", *words)
    assert done.code == 0, done.err
    for name, template in (("base", "plain"), ("iter-1", "tokenizer")):
        result = read_result(tmp_path / "run" / name / "eval" / "paper" / "piqa.json")
        assert result.template == template and result.details["protocol"] == "paper"
        assert len(result.scores["accuracy"].items) == 2
    assert "paper/piqa" in done.out and ("standard/piqa" in done.out) == _has_lm_eval()
    for wrong, message in (("piqa", "write paper/piqa or standard/piqa"), ("paper/pika", "did you mean 'paper/piqa'?")):
        refused = isheep("run", "lamb", "--out", tmp_path / "other", f"evaluation=[{wrong}]")
        assert refused.code == 2 and message in refused.err


def _has_lm_eval() -> bool:
    from importlib.util import find_spec

    return find_spec("lm_eval") is not None
