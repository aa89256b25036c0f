"""The standard benchmarks: files of every form, OpenCompass's rules and lm-eval's on our engine, never mixed."""

import json
import math
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from isheep.benchmarks import EvalContext, load_benchmark
from isheep.benchmarks.standard import squad2
from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask
from isheep.benchmarks.support.options import mean_losses
from isheep.benchmarks.support.sources import DataSource, load_items, question_texts
from isheep.engines.function import SeededFunctionEngine
from isheep.engines.transformers import open_engine
from isheep.errors import TooLong, UserError
from isheep.evaluation.results import read_result
from isheep.models.chat_template import load_chat_template
from isheep.recipe.benchmark_names import packaged_names
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Model, TokenLogprobs
from isheep.rundir.folder import RunFolder
from tests.helpers.benchmark_files import BENCHMARK_FILES, write_benchmark
from tests.helpers.command import isheep
from tests.helpers.data_files import DATA

TASKS = (
    "boolq", "piqa", "siqa", "gpqa_diamond", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa_fact",
    "commonsense_qa", "mmlu", "nq", "triviaqa", "squad2",
)  # fmt: skip


def paper_task(name: str) -> PaperTask:
    task: PaperTask = import_module(f"isheep.benchmarks.paper.{name}").TASK
    return task


def source_of(name: str) -> DataSource:
    return paper_task(name).source


def settings_of(name: str, data: Path | None) -> BenchmarkSettings:
    return BenchmarkSettings(name=f"paper/{name}", data=str(data) if data else None)


def load(name: str, data: Path | None) -> list[DataRow]:
    """The items of a standard benchmark."""
    return load_items(source_of(name), settings_of(name, data))


def listed(*texts: str) -> dict[str, Any]:
    return {"text": list(texts), "label": list("ABCDE"[: len(texts)])}


class Liking(SeededFunctionEngine):
    """Finds the texts likely that hold one of `liked`; writes what `answer` says."""

    def __init__(self, liked: Sequence[str], answer: Callable[[str], str] = lambda prompt: "") -> None:
        super().__init__(lambda prompt, seed: answer(prompt))
        self.liked, self.read = liked, list[str]()

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        texts = [prompt + output for prompt, output in zip(prompts, outputs, strict=True)]
        self.read += texts
        if any("too long" in text for text in texts):
            raise TooLong("a prompt of 9 tokens does not fit")
        chances = [-0.5 if any(entry in text for entry in self.liked) else -1.0 for text in texts]
        return [TokenLogprobs([0] * 4, [chance] * 4) for chance in chances]


def exam(
    tmp_path: Path, engine: Any, model: Path, data: Path | None, base: bool = True, chat: str = "qwen"
) -> EvalContext:
    location = RunFolder(tmp_path / "run" / "base" / "eval" / "own", tmp_path / "run")
    location.path.mkdir(parents=True)
    settings = BenchmarkSettings(name="paper/piqa", data=str(data) if data else None)
    return EvalContext(engine, load_chat_template(chat, str(model)), 42, location, settings, base)


# --- items


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("form", ["file", "folder", "parquet", "hub json"])
def test_items_in_every_form(tmp_path: Path, name: str, form: str) -> None:
    path = write_benchmark(tmp_path / "authors", name)
    result = load(name, path)
    assert len(result) == (3 if name in ("arc_easy", "arc_challenge", "mmlu") else 2)
    if form == "folder":
        assert load(name, tmp_path / "authors") == result
    elif form == "parquet":
        from pyarrow import Table, parquet

        parquet.write_table(Table.from_pylist(result), tmp_path / "hub.parquet")
        again = load(name, tmp_path / "hub.parquet")
        columns = source_of(name).columns
        assert [[row[entry] for entry in columns] for row in again] == [
            [row[entry] for entry in columns] for row in result
        ]
    elif form == "hub json":
        (tmp_path / "hub.json").write_text(json.dumps(result))
        assert load(name, tmp_path / "hub.json") == result
    created = [entry for number, row in enumerate(result, 1) if (entry := paper_task(name).prepare(row, number))]
    assert all(entry.right < len(entry.options) for entry in created) and len(
        question_texts(source_of(name), settings_of(name, path))
    ) == len(result)


@pytest.mark.parametrize("name", TASKS)
def test_items_from_the_hub(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set with the Hub's columns in the library's own form; the Hub itself no test can reach."""
    from datasets import Dataset

    source, result, prompts_seen = source_of(name), load(name, write_benchmark(tmp_path, name)), []

    def load_dataset(path: str, configuration: str | None, split: str) -> Any:
        prompts_seen.append((path, configuration, split))
        return Dataset.from_list(result)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    again = load(name, None)
    assert prompts_seen == [source.hub]
    assert [[row[entry] for entry in source.columns] for row in again] == [
        [row[entry] for entry in source.columns] for row in result
    ]
    result = [{"other": 1}]
    with pytest.raises(UserError, match=f"^{source.hub[0]}.* is missing"):
        load(name, None)


@pytest.mark.parametrize("name", ["arc_easy", "openbookqa_fact", "winogrande"])
def test_an_answer_that_is_no_option_is_one_line(tmp_path: Path, qwen2: Path, name: str) -> None:
    """lm-eval's tasks meet such an item with an exception of their own."""
    path = write_benchmark(tmp_path / "data", name)
    rows = load(name, path)
    key = "answer" if name == "winogrande" else "answerKey"
    (tmp_path / "bad.jsonl").write_text("\n".join(json.dumps(row | {key: "Z"}) for row in rows))
    context = exam(tmp_path, Liking([]), qwen2, tmp_path / "bad.jsonl")
    with pytest.raises(UserError) as caught:
        load_benchmark(f"standard/{name}").run(context)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_tables_of_question_and_list_are_read(tmp_path: Path) -> None:
    """DPR's form, which OpenCompass's NQ and TriviaQA have."""
    path = tmp_path / "nq-test.qa.csv"
    path.write_text("who wrote it\t['Ann Lee', \"A. Lee's\"]\nwhen\t['1972']\n")
    assert load("nq", path)[0] == {"question": "who wrote it", "answer": ["Ann Lee", "A. Lee's"]}
    assert load("triviaqa", path)[1]["answer"] == {"aliases": ["1972"]}


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        (
            "boolq",
            "a.jsonl",
            '{"question": "a", "passage": "b", "answer": "perhaps"}',
            "'perhaps' is not true or false",
        ),
        ("boolq", "a.jsonl", '{"question": "a", "answer": true}', "'passage' is missing"),
        ("piqa", "a.jsonl", '{"goal": "a", "sol1": "b", "sol2": "c"}', "'label' is missing"),
        ("arc_easy", "a.jsonl", '{"question": {"stem": "a"}, "answerKey": "A"}', "'choices' is missing"),
        ("mmlu", "a_test.csv", "a,b,c,d,e,F", "substring not found"),
        ("nq", "a.qa.csv", "a\t[broken", "not in the form of NQ-open.dev.jsonl"),
        ("squad2", "a.json", '{"data": [{"paragraphs": []}, {}]}', "'paragraphs' is missing"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, name: str, file: str, content: str, message: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError) as refused:
        load(name, tmp_path / file)
    assert message in str(refused.value) and "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("answer", ["[null]", "[5]", '"Ann"', '{"a": ["Ann"]}', "[]", '[""]', '["Ann", " "]', "5"])
@pytest.mark.parametrize("name", ["nq", "triviaqa"])
def test_answers_that_are_no_texts_are_refused(tmp_path: Path, name: str, answer: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"question": "a", "answer": ["Ann"]}}\n{{"question": "b", "answer": {answer}}}\n')
    with pytest.raises(UserError) as refusal:
        load(name, path)
    message = str(refusal.value)
    assert f"{path} row 2: answer" in message and "; rows such as {" in message and "\n" not in message


@pytest.mark.parametrize(
    "answers", ['[{"text": 5}]', '{"text": [5]}', '{"text": "Ann"}', '{"text": [""]}', '{"text": [null]}', "5"]
)
def test_answers_of_squad_that_are_no_texts_are_refused(tmp_path: Path, answers: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"context": "c", "question": "q", "id": "a", "answers": {answers}}}')
    with pytest.raises(UserError, match=f"{path} row 1: answers") as refusal:
        load("squad2", path)
    assert "\n" not in str(refusal.value)


def test_an_answer_in_the_form_of_squads_authors_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "dev-v2.0.json"
    path.write_text(json.dumps(BENCHMARK_FILES["squad2"][1]).replace('"text": "Ann"', '"text": 5'))
    with pytest.raises(UserError, match=r"row 1: answers\.text\[0\] must be text, found 5"):
        load("squad2", path)


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"has no hellaswag_val\.jsonl"):
        load("hellaswag", tmp_path)
    (tmp_path / "dev-labels.lst").write_text("1\n")
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, BENCHMARK_FILES["siqa"][1])))
    with pytest.raises(UserError, match="1 labels for 2 rows"):
        load("siqa", tmp_path)

    def offline(*words: Any, **options: Any) -> None:
        raise ConnectionError("no way out\nand more")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(UserError, match=r"can't be had from the Hub \(no way out\); give your own copy.*test_complete"):
        load("openbookqa_fact", None)


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
