"""MT-Bench (Zheng et al. 2023), single-answer grading: 80 questions of two turns, each turn rated 1 to 10 by a judge.

Questions, reference answers and judge prompts come from FastChat's files (support/fastchat.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from isheep.benchmarks.support import fastchat
from isheep.benchmarks.support.base import Benchmark, PlannedAnswers, Result, Score
from isheep.benchmarks.support.context import EvalContext, data_path
from isheep.benchmarks.support.item_parts import select_items
from isheep.benchmarks.support.responses import ResponseContext, match_responses
from isheep.benchmarks.support.validation_parts import validation_half
from isheep.judges.base import count_outcomes, judge_notes, merge_parameters, safe_file_name
from isheep.recipe.evaluation import BenchmarkSettings, JudgeSettings
from isheep.records import Sampling

# FastChat's parameters of a judge's request.
PARAMETERS = {"temperature": 0, "max_tokens": 2048, "n": 1}
# Of an answer, FastChat's default.
MAX_TOKENS = 1024
PLANNED = PlannedAnswers(num_answers=160, max_tokens=MAX_TOKENS, batch_size=64)
# FastChat's temperature_config, of answers by category.
TEMPERATURES = {
    **{"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1},
    **{"extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "arena-hard-200": 0.0},
}
DEFAULT_TEMPERATURE = 0.7
AVERAGES = ("average", "first_turn", "second_turn")


def run(context: EvalContext) -> Result:
    """Generate answers to both turns, and ask the judge for a rating of each.

    Scores have the ratings, None for those that can't be read. Details: "averages" are FastChat's, over the ratings
    that could be read; "ratings_by_category" has the ratings of each turn and category (Table 12). The benchmark's
    folder gets model_answer/ and model_judgment/.
    """
    files = load_files(context.settings, context.required_judge.name_or(fastchat.DEFAULT_JUDGE))
    return rate_answers(context, files, generate_answers(context, files.questions), context.model_name)


def score_responses(context: ResponseContext) -> Result:
    """Ask the judge for ratings of the answers in a model_answer file. Questions without an answer are left out."""
    files = fastchat.load_files(context.data, context.required_judge.name_or(fastchat.DEFAULT_JUDGE))
    answers = fastchat.read_answers(context.file)
    ids = [question["question_id"] for question in files.questions]
    matched = match_responses(context.file, ids, [(question_id, "") for question_id in answers], "question")
    files = files._replace(questions=[files.questions[index] for index in matched.indices])
    answers = {question["question_id"]: answers[question["question_id"]] for question in files.questions}
    context.folder.path.mkdir(parents=True, exist_ok=True)
    result = rate_answers(context, files, answers, fastchat.read_model_name(context.file))
    return result.model_copy(update={"notes": (*result.notes, *matched.notes)})


def rate_answers(
    context: EvalContext | ResponseContext, files: fastchat.QuestionFiles, answers: fastchat.Turns, model: str
) -> Result:
    """Ask the judge for a rating of each turn, and write answers and judgments as FastChat does."""
    judge, folder = context.required_judge, context.folder
    judge_name = judge.name_or(fastchat.DEFAULT_JUDGE)
    requests = fastchat.judge_requests(files, answers)
    replies = context.ask_judge([request.messages for request in requests], PARAMETERS, fastchat.DEFAULT_JUDGE)
    rows = [
        fastchat.judgment_row(request, reply, model, judge_name)
        for request, reply in zip(requests, replies, strict=True)
    ]
    answer_rows = fastchat.answer_rows(answers, model)
    folder.write_text(f"model_answer/{safe_file_name(model)}.jsonl", fastchat.json_lines(answer_rows))
    folder.write_text(f"model_judgment/{safe_file_name(judge_name)}_single.jsonl", fastchat.json_lines(rows))
    ratings = [fastchat.score_of(row) for row in rows]
    return Result(
        template=context.template,
        scores=make_scores(rows),
        notes=judge_notes(model, judge_name, judge.kind, replies, ratings),
        details={
            "judge": {"model": judge_name, "kind": judge.kind, **count_outcomes(replies, ratings)},
            "averages": {name: fastchat.averages(rows)[model][name] for name in AVERAGES},
            "ratings_by_category": fastchat.by_category(rows, files.questions),
        },
    )


def make_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    """Return the ratings of all turns, clustered by dialogue, and of each turn alone."""
    question_ids = [row["question_id"] for row in rows]
    scores = {"MT-Bench": Score(items=[fastchat.score_of(row) for row in rows], clusters=question_ids)}
    for number, name in enumerate(fastchat.TURN_NAMES, 1):
        scores[name] = Score(items=[fastchat.score_of(row) for row in rows if row["turn"] == number])
    return scores


def prompts(settings: BenchmarkSettings) -> list[str]:
    """Return the turns. Raises UserError if a run would lack a reference or a judge prompt."""
    files = load_files(settings, fastchat.DEFAULT_JUDGE)
    empty = {question["question_id"]: ["", ""] for question in files.questions}
    fastchat.judge_requests(files, empty)
    return [turn for question in files.questions for turn in question["turns"]]


def score_inputs(settings: BenchmarkSettings) -> object:
    """Return questions, references, judge prompts, and how this judge is asked."""
    judge = settings.judge or JudgeSettings()
    name = judge.model or fastchat.DEFAULT_JUDGE
    files = load_files(settings, name)
    return [files, name, judge.local, merge_parameters(PARAMETERS, judge.parameters)]


def load_files(settings: BenchmarkSettings, judge: str) -> fastchat.QuestionFiles:
    """Return FastChat's files with the questions that the settings are about."""
    files = fastchat.load_files(data_path(settings), judge)
    return files._replace(questions=select_items(files.questions, lambda row: row["question_id"], settings))


def generate_answers(context: EvalContext, questions: Sequence[dict[str, Any]]) -> dict[Any, list[str]]:
    """Return the model's answers to each turn, with the turns before it, at its category's temperature."""
    answers: dict[Any, list[str]] = {question["question_id"]: [] for question in questions}
    temperatures = {
        question["question_id"]: TEMPERATURES.get(question["category"], DEFAULT_TEMPERATURE) for question in questions
    }
    for turn in range(max(len(question["turns"]) for question in questions)):
        for temperature in sorted(set(temperatures.values())):
            batch = [
                question
                for question in questions
                if temperatures[question["question_id"]] == temperature and turn < len(question["turns"])
            ]
            prompts = [
                context.dialogue_prompt(_alternate(question["turns"][: turn + 1], answers[question["question_id"]]))
                for question in batch
            ]
            sampling = Sampling(temperature=temperature, top_p=1.0, max_tokens=MAX_TOKENS, stop=(context.chat.end,))
            rows = context.answers(prompts, sampling, f"turn-{turn + 1}-temperature-{temperature:g}.jsonl")
            for question, answer in zip(batch, rows, strict=True):
                answers[question["question_id"]].append(answer.output.strip())
    return answers


def _alternate(questions: Sequence[str], answers: Sequence[str]) -> list[str]:
    """Return question, answer, question, ... of a dialogue whose last question has no answer yet."""
    return [text for pair in zip(questions, [*answers, ""], strict=True) for text in pair][:-1]


BENCHMARK = Benchmark(
    name="mt_bench",
    run=run,
    prompts=prompts,
    score_inputs=score_inputs,
    needs_judge=True,
    validation=validation_half("mt_bench", run, prompts, "MT-Bench", largest=10.0, planned=PLANNED),
    score_responses=score_responses,
    planned=PLANNED,
)
