"""Which fields of its data a benchmark reads, and which it does not, with the reason.

A test holds each list against the data: every field of a file is in one of the two, changing a field that is read
changes a prompt or a score, and changing another one changes neither. Fields are named as in the authors' files; a dot
leads into a nested object or list.
"""

from collections.abc import Mapping
from typing import NamedTuple


class DataFields(NamedTuple):
    """The fields that a benchmark reads, and those that it does not, each with the reason."""

    read: tuple[str, ...]
    unused: Mapping[str, str] = {}


ID = "a name of the item"
OTHER_FORM = "another form of a field that is read"
NOT_SCORED = "the original's scorer does not read it"
COPIED = "copied into the files of outputs and annotations; no prompt and no score depends on it"
CLIENT = "for alpaca_eval's client; machine.judging says how the judge is called"

_HUMANEVAL = ("prompt", "entry_point", "canonical_solution", "test")
_MBPP = ("task_id", "code", "test_list")
_CHOICES = ("question.stem", "question.choices.text", "question.choices.label", "answerKey")
_HELLASWAG = DataFields(
    ("activity_label", "ctx_a", "ctx_b", "endings", "label"), {"ind": ID, "ctx": OTHER_FORM}
)  # fmt: skip
_PIQA = DataFields(("goal", "sol1", "sol2", "labels"), {"id": ID})
_SIQA = DataFields(("context", "question", "answerA", "answerB", "answerC", "labels"))
_WINOGRANDE = DataFields(("sentence", "option1", "option2", "answer"), {"qID": ID})
_ARC = DataFields(_CHOICES, {"id": ID})
_OPENBOOKQA = DataFields(
    (*_CHOICES, "fact1"), {"id": ID, "humanScore": "how well people did", "clarity": "how clear people found it"}
)
_COMMONSENSE = DataFields(
    _CHOICES, {"id": ID, "question.question_concept": "what the question was written from"}
)  # fmt: skip
_NQ = DataFields(("question", "answer"))
_TRIVIAQA = DataFields(
    ("Data.Question", "Data.Answer.Aliases"), {"Data.QuestionId": ID, "Data.Answer.Value": "one of the aliases"}
)
_GPQA = DataFields(("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"))
_SQUAD = "data.paragraphs.qas"
_SQUAD_READ = ("data.paragraphs.context", f"{_SQUAD}.question", f"{_SQUAD}.answers.text")
_SQUAD_UNUSED = {
    "version": "the same for all items",
    f"{_SQUAD}.id": ID,
    f"{_SQUAD}.answers.answer_start": "where the answer stands in the passage",
    f"{_SQUAD}.is_impossible": "true where there are no answers",
    f"{_SQUAD}.plausible_answers.answer_start": "where the answer stands in the passage",
}
_REQUEST, _PARSER = "configs.completions_kwargs", "configs.completion_parser_kwargs"
# "reference" is the file of instructions and reference outputs, "configs" an evaluator's configs.yaml.
_ALPACA = (
    "reference.instruction", "reference.output", "reference.generator",
    "df_gamed.index", "df_gamed.preference", "df_gamed.std_delta_len", "df_gamed.instruction_difficulty",
    "df_gamed.not_gamed_baseline",
    "configs.prompt_template", "configs.fn_completions", "configs.fn_completion_parser", "configs.batch_size",
    "configs.is_randomize_output_order",
    f"{_REQUEST}.model_name", f"{_REQUEST}.max_tokens", f"{_REQUEST}.temperature",
)  # fmt: skip
_ALPACA_UNUSED = {
    "reference.dataset": COPIED, "reference.datasplit": COPIED, "df_gamed.model": "a name of the baseline",
    f"{_REQUEST}.requires_chatml": "every prompt in ChatML is a conversation", f"{_REQUEST}.num_procs": CLIENT,
    f"{_REQUEST}.price_per_token": CLIENT,
}  # fmt: skip
_PLAUSIBLE, _TITLE = f"{_SQUAD}.plausible_answers.text", "data.title"

DATA_FIELDS: dict[str, DataFields] = {
    "ifeval": DataFields(("key", "prompt", "instruction_id_list", "kwargs")),
    "humaneval": DataFields(_HUMANEVAL, {"task_id": ID}),
    "humaneval_plus": DataFields(
        (*_HUMANEVAL, "base_input", "plus_input", "atol"),
        {"task_id": ID, "contract": "says which inputs are valid; the inputs of the file are"},
    ),
    "mbpp": DataFields(
        ("text", *_MBPP, "test_setup_code"),
        {"challenge_test_list": "the paper's harder tests, which its scores leave out"},
    ),
    "mbpp_sanitized": DataFields(("prompt", *_MBPP, "test_imports"), {"source_file": "where the task was checked"}),
    "mt_bench": DataFields(
        (
            "question.question_id", "question.category", "question.turns", "reference_answer.question_id",
            "reference_answer.choices.turns", "judge_prompts.name", "judge_prompts.system_prompt",
            "judge_prompts.prompt_template",
        ),
        {
            "question.reference": "FastChat reads the references in reference_answer",
            "reference_answer.choices.index": "only the first choice is read",
            "reference_answer.answer_id": ID, "reference_answer.model_id": ID,
            "reference_answer.tstamp": "when it was written",
            "judge_prompts.type": "the names say which prompts grade a single answer",
            "judge_prompts.description": "for people", "judge_prompts.category": "for people",
            "judge_prompts.output_format": "the form of the verdict is that of the pattern",
        },
    ),
    "alpaca_eval": DataFields(_ALPACA, _ALPACA_UNUSED),
    "alpaca_eval_2": DataFields(
        (
            *_ALPACA, f"{_REQUEST}.logprobs", f"{_REQUEST}.top_logprobs", f"{_PARSER}.numerator_token",
            f"{_PARSER}.denominator_tokens", f"{_PARSER}.is_binarize", "configs.completion_key",
        ),
        _ALPACA_UNUSED,
    ),
    "paper/boolq": DataFields(("question", "passage", "answer"), {"title": "OpenCompass removes it from the passage"}),
    "standard/boolq": DataFields(("question", "passage", "answer", "title")),
    "paper/squad2": DataFields((*_SQUAD_READ, _PLAUSIBLE), {**_SQUAD_UNUSED, _TITLE: "not in OpenCompass's prompt"}),
    "standard/squad2": DataFields((*_SQUAD_READ, _TITLE), {**_SQUAD_UNUSED, _PLAUSIBLE: NOT_SCORED}),
}  # fmt: skip

_BOTH_PROTOCOLS = {
    "piqa": _PIQA, "siqa": _SIQA, "gpqa_diamond": _GPQA, "hellaswag": _HELLASWAG, "winogrande": _WINOGRANDE,
    "arc_easy": _ARC, "arc_challenge": _ARC, "openbookqa_fact": _OPENBOOKQA, "commonsense_qa": _COMMONSENSE,
    "mmlu": DataFields(("question", "A", "B", "C", "D", "answer")), "nq": _NQ, "triviaqa": _TRIVIAQA,
}  # fmt: skip
DATA_FIELDS |= {
    f"{protocol}/{name}": fields for name, fields in _BOTH_PROTOCOLS.items() for protocol in ("paper", "standard")
}  # noqa: E501
DATA_FIELDS["standard/commonsense_qa"] = DataFields(
    ("question.stem", "question.choices.text", "answerKey"),
    {**_COMMONSENSE.unused, "question.choices.label": "lm-eval's task names the choices A to E by their order"},
)
