"""Files of a few items of our own, in the formats of the benchmarks' authors."""

import csv
import json
from pathlib import Path
from typing import Any

HUMANEVAL_TASK = {
    "task_id": "Own/0", "entry_point": "double", "prompt": 'def double(n):\n    """Twice n."""\n',
    "canonical_solution": "    return 2 * n\n", "test": "def check(f):\n    assert f(2) == 4 and f(-1) == -2\n",
}  # fmt: skip


def mbpp_task(number: int, **fields: Any) -> dict[str, Any]:
    """Return a task in the format of mbpp.jsonl: a function that adds its number."""
    return {
        "task_id": number, "text": f"Write a function that adds {number}.", 
        "code": f"def add(n):\r\n\treturn n + {number}",
        "test_list": [f"assert add(1) == {1 + number}", f"assert add(0) == {number}"], "test_setup_code": "",
        "challenge_test_list": [], **fields,
    }  # fmt: skip


def nested(stem: str, *texts: str) -> dict[str, Any]:
    choices = [{"text": text, "label": letter} for letter, text in zip("ABCDE", texts, strict=False)]
    return {"stem": stem, "choices": choices}


# Two items of each benchmark, ours, as the authors' files have them: (name of the file, its content).
GPQA = {
    "Question": "Two and two?",
    "Correct Answer": "four",
    **{f"Incorrect Answer {n}": f"{n} only" for n in (1, 2, 3)},
}


ARC = [
    {"id": "1", "question": nested("What falls?", "rain", "light", "sound", "time"), "answerKey": "A"},
    {"id": "2", "question": nested("What burns?", "ice", "wood", "air"), "answerKey": "B"},
    {"id": "3", "question": {**nested("What swims?", "a cat", "a bird", "a fish", "a cow")}, "answerKey": "C"},
]


SQUAD = {
    "version": "v2.0",
    "data": [{"title": "Sheep", "paragraphs": [{"context": "The sheep, Ann, is white.", "qas": [
        {"id": "a", "question": "Who is white?", "answers": [{"text": "Ann", "answer_start": 11}] * 2,
         "is_impossible": False},
        {"id": "b", "question": "Who is black?", "answers": [], "is_impossible": True,
         "plausible_answers": [{"text": "the sheep", "answer_start": 0}]},
    ]}]}],
}  # fmt: skip


BENCHMARK_FILES: dict[str, tuple[str, Any]] = {
    "boolq": ("dev.jsonl", [
        {"question": "is snow cold", "title": "Snow", "answer": True, "passage": "Snow -- as ice -- is cold."},
        {"question": "is fire cold", "title": "Fire", "answer": False, "passage": "Fire is hot."},
    ]),
    "piqa": ("valid.jsonl", [
        {"goal": "how to cut bread?", "sol1": "with a knife", "sol2": "With a spoon"},
        {"goal": "Cut", "sol1": "Use a cloud", "sol2": "use a saw"},
    ]),
    "siqa": ("dev.jsonl", [
        {"context": "Ann fell.", "question": "How is Ann?", "answerA": "glad", "answerB": "hurt", "answerC": "tall"},
        {"context": "Bob won.", "question": "How is Bob?", "answerA": "glad", "answerB": "ill", "answerC": "lost"},
    ]),
    "gpqa_diamond": ("gpqa_diamond.csv", [GPQA, {**GPQA, "Question": "Two, two?"}]),
    "hellaswag": ("hellaswag_val.jsonl", [
        {"ind": 1, "activity_label": "Baking", "ctx_a": "A man has dough.", "ctx_b": "he", "ctx": "A man has dough. he",
         "endings": ["flies away.", "bakes [step] it.", "is blue.", "swims."], "label": 1},
        {"ind": 2, "activity_label": "Tea", "ctx_a": "Water boils [title] Pour.", "ctx_b": "", "ctx": "Water boils",
         "endings": ["It is tea.", "b", "c", "d"], "label": 0},
    ]),
    "winogrande": ("dev.jsonl", [
        {"qID": "a", "sentence": "The cup fell on the floor, and _ broke.", "option1": "cup", "option2": "floor",
         "answer": "1"},
        {"qID": "b", "sentence": "Ann fed the cat as _ was hungry.", "option1": "Ann", "option2": "the cat",
         "answer": "2"},
    ]),
    "arc_easy": ("ARC-Easy-Test.jsonl", ARC),
    "arc_challenge": ("ARC-Challenge-Test.jsonl", ARC),
    "openbookqa_fact": ("test_complete.jsonl", [
        {"id": "1", "question": nested("What melts", "ice", "stone", "sand", "iron"), "fact1": "heat melts ice",
         "humanScore": "1.0", "clarity": "2", "answerKey": "A"},
        {"id": "2", "question": nested("What grows", "salt", "a plant", "a wall", "a cup"), "fact1": "plants grow",
         "humanScore": "1.0", "clarity": "2", "answerKey": "B"},
    ]),
    "commonsense_qa": ("dev_rand_split.jsonl", [
        {"id": "1", "question": {**nested("Where is milk?", "cow", "car", "sky", "sun", "ink"),
                                 "question_concept": "milk"}, "answerKey": "A"},
        {"id": "2", "question": nested("Where is ink?", "cow", "car", "sky", "sun", "pen"), "answerKey": "E"},
    ]),
    "mmlu": ("test", {
        "anatomy_test.csv": [["Bones are", "hard", "wet", "loud", "fast", "A"]],
        "college_physics_test.csv": [["Light is, \"they\" say", "slow", "fast", "wet", "old", "B"]] * 2,
    }),
    "nq": ("NQ-open.dev.jsonl", [
        {"question": "who wrote it", "answer": ["Ann Lee", "Mrs Lee"]}, {"question": "when was it", "answer": ["1972"]},
    ]),
    "triviaqa": ("wikipedia-dev.json", {"Data": [
        {"Question": "Who wrote it?", "QuestionId": "1", "Answer": {"Value": "Ann Lee", "Aliases": ["Ann Lee", "Ann"]}},
        {"Question": "When was it?", "QuestionId": "2", "Answer": {"Value": "1972", "Aliases": ["1972"]}},
    ]}),
    "squad2": ("dev-v2.0.json", SQUAD),
}  # fmt: skip


LABELS = {"piqa": ("valid-labels.lst", "0\n1\n"), "siqa": ("dev-labels.lst", "2\n1\n")}


TRAIN = [
    {"id": str(n), "question": nested(f"Example {n}?", *(f"{n}{c}" for c in "abcde")), "answerKey": "C"}
    for n in range(9)
]


DEV = [[f"Example {n}", "one", "two", "three", "four", "ABCD"[n % 4]] for n in range(6)]


def write_benchmark(folder: Path, name: str) -> Path:
    """Write the items of a benchmark into `folder` as its authors release them; return the path for `data`."""
    file, content = BENCHMARK_FILES[name]
    folder.mkdir(parents=True, exist_ok=True)
    if name == "mmlu":
        for part, rows in {**content, "anatomy_dev.csv": DEV, "college_physics_dev.csv": DEV}.items():
            location = folder / part.rpartition("_")[2].removesuffix(".csv") / part
            location.parent.mkdir(exist_ok=True)
            with location.open("w", newline="") as file_object:
                csv.writer(file_object).writerows(rows)
        return folder / file
    if file.endswith(".csv"):
        with (folder / file).open("w", newline="") as file_object:
            writer = csv.DictWriter(file_object, list(content[0]))
            writer.writeheader()
            writer.writerows(content)
    else:
        lines = file.endswith(".jsonl")
        (folder / file).write_text("\n".join(map(json.dumps, content)) if lines else json.dumps(content))
    if name in LABELS:
        (folder / LABELS[name][0]).write_text(LABELS[name][1])
    if name == "commonsense_qa":
        (folder / "train_rand_split.jsonl").write_text("\n".join(map(json.dumps, TRAIN)))
    return folder / file
