"""Not a test: benchmarks of our own in the originals' formats, and an exam of a fake model on them."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isheep.benchmarks import EvalContext, alpaca_eval
from isheep.benchmarks.support import win_rate
from isheep.engines.function import SeededFunctionEngine
from isheep.judges.base import Judge
from isheep.judges.endpoint import EndpointJudge
from isheep.models.chat_template import load_chat_template
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.recipe.machine import Judging
from isheep.rundir.folder import RunFolder

HASTE = Judging(retry_wait=0, timeout=2, attempts=2, max_in_flight=4)
CATEGORIES = ("writing", "math", "stem", "coding")
NAMES = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def mt_bench_files(folder: Path, count: int) -> Path:
    """Questions of four categories in turn, references for two of them, four judge prompts."""
    questions = [
        {"question_id": 81 + n, "category": CATEGORIES[n % 4], "turns": [f"Ask {n}?", f"And {n} {{again}}?"]}
        for n in range(count)
    ]
    references = [
        {"question_id": q["question_id"], "choices": [{"index": 0, "turns": ["ref one", "ref {two}"]}]}
        for q in questions
        if q["category"] in ("math", "coding")
    ]
    prompts = []
    for name in NAMES:
        pair = "{question_1}|{answer_1}|{question_2}|{answer_2}" if "turn" in name else "{question}|{answer}"
        holes = ["{ref_answer_1}"] * ("math" in name) + ["{ref_answer_2}"] * ("math" in name and "turn" in name)
        text = f"{name} {{{{x}}}} {'|'.join(holes)} Q: {pair}"
        prompts.append({"name": name, "system_prompt": "Judge." if "turn" in name else "", "prompt_template": text})
    write_lines(folder / "question.jsonl", questions)
    write_lines(folder / "reference_answer" / "gpt-4.jsonl", references)
    write_lines(folder / "judge_prompts.jsonl", prompts)
    return folder


def exam(
    run: Path,
    data: Path,
    checkpoint: Path,
    judge: Judge | None = None,
    answer: Callable[[str, int], str] = lambda prompt, seed: f"said {len(prompt)}",
    settings: BenchmarkSettings | None = None,
    base: bool = False,
) -> EvalContext:
    """An exam in `run`/iter-1/eval/exam of a model that is a function, with the Qwen template."""
    run.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(run / "iter-1" / "eval" / "exam", run)
    folder.path.mkdir(parents=True, exist_ok=True)
    chat = load_chat_template("qwen", str(checkpoint))
    settings = settings or BenchmarkSettings(name="mt_bench")
    settings = settings.model_copy(update={"data": str(data)})
    return EvalContext(
        SeededFunctionEngine(answer), chat, 1, folder, settings, base, judge or EndpointJudge(None, HASTE)
    )


# --- AlpacaEval

TEMPLATE = (
    "<|im_start|>system\nCompare.\n<|im_end|>\n<|im_start|>user\n"
    "Q {instruction}\n{m}: {output_1}#\n{M}: {output_2}#\n<|im_end|>\n"
)
CONFIGS = """
{name}:
  prompt_template: "{name}/prompt.txt"
  fn_completions: "openai_completions"
  completions_kwargs: {{model_name: "judge-0", max_tokens: {tokens}, temperature: {heat}, requires_chatml: true{more}}}
  fn_completion_parser: "{parser}"
  batch_size: 1
"""
WEIGHTED = """  completion_parser_kwargs: {numerator_token: m, denominator_tokens: [m, M], is_binarize: false}
  completion_key: completions_all
"""


def alpaca_files(folder: Path, count: int) -> Path:
    """Both versions' files, with instructions, outputs and judge prompts of our own."""
    folder.mkdir()
    for version in (alpaca_eval.ONE, alpaca_eval.TWO):
        rows = [{"dataset": "ours", "instruction": f"Do {n} {{output_1}}", "output": "w" * (n + 1), "generator": "ref"}
                for n in range(count)]  # fmt: skip
        (folder / version.reference).write_text(json.dumps(rows))
        config = folder / "evaluators_configs" / version.config
        config.mkdir(parents=True)
        (config / "prompt.txt").write_text(TEMPLATE)
        weighted = version == alpaca_eval.TWO
        text = CONFIGS.format(
            name=version.config,
            tokens=1 if weighted else 100,
            heat=1 if weighted else 0,
            parser="logprob_parser" if weighted else "ranking_parser",
            more=", logprobs: true, top_logprobs: 5" if weighted else "",
        )
        (config / "configs.yaml").write_text(text + WEIGHTED * weighted)
    return folder


def gamed(folder: Path, count: int) -> Path:
    """A df_gamed.csv of our own: two baselines made short and long, and the plain one."""
    chance = random.Random(3)
    lines = ["index,model,preference,std_delta_len,instruction_difficulty,not_gamed_baseline"]
    difficulty = [chance.gauss(0, 1) for _ in range(count)]
    for model, shift in (("short", 1.0), ("long", -1.0), ("plain", 0.0)):
        for n in range(count):
            longer = shift + (chance.gauss(0, 0.5) if shift else 0)
            share = 1 / (1 + math.exp(longer)) if shift else 0.5
            lines.append(f"{n},{model},{share},{longer},{difficulty[n]},{not shift}")
    (folder / win_rate.GAMED).write_text("\n".join(lines) + "\n")
    return folder / win_rate.GAMED
