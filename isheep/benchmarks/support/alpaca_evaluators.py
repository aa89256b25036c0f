"""AlpacaEval's judges: what an evaluator configuration asks, in which order, and how its reply is read.

Configurations and prompts come from the user's copy of alpaca_eval's evaluators_configs. The rules are those of version
0.6: the order of the two outputs is drawn from the instruction, and each parser has the name that it has there.
"""

import ast
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from isheep import prompts
from isheep.errors import UserError
from isheep.files.reading import MAX_TEXT_BYTES, read_text
from isheep.files.yaml_files import parse_yaml
from isheep.judges.base import Messages
from isheep.openai_client import ServerReply

# AlpacaEval's seed for the order in which the outputs are shown.
SEED = 0
# Its defaults for the parameters of a request.
DEFAULT_PARAMETERS = {"temperature": 0.7, "top_p": 1.0, "max_tokens": 2048}
# The types of parameters that this package computes with, or that no endpoint takes as another type.
PARAMETER_TYPES = {"max_tokens": int, "temperature": int | float, "top_p": int | float, "top_logprobs": int}
# Keys of completions_kwargs that are not parameters of a request.
CLIENT_KEYS = ("requires_chatml", "is_chat", "num_procs", "batch_size", "price_per_token", "client_kwargs", "is_strip")
# Keys of a configuration that are read; another one could change what the judge is asked or how its reply is read.
KEYS = (
    "prompt_template", "fn_completions", "completions_kwargs", "fn_completion_parser", "completion_parser_kwargs",
    "completion_key", "batch_size", "is_randomize_output_order",
)  # fmt: skip
# Characters in which a match at the place of the last one's end is looked for.
WINDOW = 1000
TURN = re.compile(r"<\|im_start\|>(.*?)\n(.*?)<\|im_end\|>", re.DOTALL)


class Evaluator(NamedTuple):
    """An evaluator configuration.

    `model` is the judge that it names, `parser_settings` are the arguments of its parser. `keeps_choice` says that the
    parser reads the whole completion, with probabilities, and not its text alone.
    """

    name: str
    model: str
    template: Messages
    parameters: dict[str, Any]
    parser: str
    parser_settings: dict[str, Any]
    keeps_choice: bool

    @property
    def options(self) -> list[str]:
        """The tokens whose probabilities count; none if the parser reads text."""
        if not self.keeps_choice:
            return []
        tokens = [self.parser_settings["numerator_token"], *self.parser_settings["denominator_tokens"]]
        return list(dict.fromkeys(tokens))

    def ask(self, instruction: str, first: str, second: str) -> Messages:
        """Return the judge prompt; the texts may hold braces."""
        values = {"instruction": instruction, "output_1": first, "output_2": second}
        return [{**turn, "content": prompts.fill_template(turn["content"], **values).strip()} for turn in self.template]

    def preference(self, reply: ServerReply) -> float | None:
        """Return a number from 1, the first output, to 2, the second; None if it can't be read."""
        if reply.error:
            return None
        content = (reply.choice or {}) if self.keeps_choice else reply.text
        try:
            values = PARSERS[self.parser](content, **self.parser_settings)
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, SyntaxError, RecursionError):
            return None
        except MemoryError:
            return None
        value = values[0] if len(values) == 1 else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 2:
            return None
        return float(value)

    def raw(self, reply: ServerReply) -> Any:
        """Return what an annotation stores as raw_completion."""
        if reply.error:
            return None
        if not self.keeps_choice:
            return reply.text
        num_tokens = (reply.read or 0) + (reply.written or 0)
        return {**(reply.choice or {}), "text": reply.text, "total_tokens": num_tokens}


def is_switched(instruction: str) -> bool:
    """Return whether the second output is shown first, by AlpacaEval's random draw."""
    return random.Random(f"is_switched_outputs{instruction}{SEED}").choices([False, True], k=1)[0]


def load_evaluator(data: Path, name: str) -> Evaluator:
    """Load the configuration `name` of the folder evaluators_configs in `data`, or of `data` if it is that folder.

    Raises UserError if it can't be read, or asks for something that only alpaca_eval itself can do.
    """
    folder = data / "evaluators_configs" if (data / "evaluators_configs").is_dir() else data
    path = folder / name / "configs.yaml"
    content = parse_yaml(read_text(path, MAX_TEXT_BYTES), str(path))
    if not isinstance(content, dict) or len(content) != 1 or not isinstance(next(iter(content.values())), dict):
        raise UserError(f"{path}: one annotator is wanted, with its settings")
    ((name, settings),) = content.items()
    for key in ("completions_kwargs", "completion_parser_kwargs"):
        if not isinstance(settings.get(key) or {}, dict):
            raise UserError(f"{path}: {key} must be a mapping, found {settings[key]!r:.60}")
    parameters = dict(settings.get("completions_kwargs") or {})
    parser = settings.get("fn_completion_parser", "regex_parser")
    _check_supported(path, settings, parameters, parser)
    return Evaluator(
        name=str(name),
        model=str(parameters.pop("model_name", "gpt-4")),
        template=parse_conversation(read_text(folder / str(settings.get("prompt_template")), MAX_TEXT_BYTES)),
        parameters={**DEFAULT_PARAMETERS, **{key: parameters[key] for key in parameters if key not in CLIENT_KEYS}},
        parser=parser,
        parser_settings=dict(settings.get("completion_parser_kwargs") or {}),
        keeps_choice=settings.get("completion_key") == "completions_all",
    )


def _check_supported(path: Path, settings: Mapping[str, Any], parameters: Mapping[str, Any], parser: Any) -> None:
    for key, kind in PARAMETER_TYPES.items():
        if isinstance(value := parameters.get(key), bool) or not isinstance(value, kind | None):
            raise UserError(f"{path}: completions_kwargs.{key} must be a number, found {value!r:.60}")
    if unknown := [key for key in settings if key not in KEYS]:
        raise UserError(f"{path}: {unknown[0]!r} is not known here: take a configuration with {', '.join(KEYS)}")
    if settings.get("is_randomize_output_order", True) is not True:
        raise UserError(f"{path}: is_randomize_output_order must be true: the order of two outputs is drawn here")
    if parser not in PARSERS:
        raise UserError(f"{path}: parser {parser!r} is not known here: take a configuration with {', '.join(PARSERS)}")
    is_single_call = settings.get("batch_size", 1) == 1
    if settings.get("fn_completions", "openai_completions") != "openai_completions" or not is_single_call:
        raise UserError(f"{path}: only openai_completions with batch_size 1 is asked here: take such a configuration")
    if {"tokens_to_favor", "tokens_to_avoid"} & parameters.keys():
        raise UserError(f"{path}: tokens_to_favor and tokens_to_avoid need the judge's tokenizer: take another one")
    if (parser == "logprob_parser") != (settings.get("completion_key") == "completions_all"):
        raise UserError(f"{path}: logprob_parser and completion_key: completions_all belong together")


def parse_conversation(template: str) -> Messages:
    """Return a prompt file's turns: ChatML, or a single turn of the user."""
    turns = TURN.findall(template)
    if not turns:
        return [{"role": "user", "content": template.strip()}]
    return [{"role": role.strip(), "content": content.strip()} for role, content in turns]


# --- parsers: each returns all preferences that it reads; a reply must have exactly one


def regex_parser(text: str, outputs_to_match: Mapping[float, str]) -> list[Any]:
    """Return the keys of the patterns in the order of their matches, which do not overlap."""
    patterns = [(key, re.compile(regex)) for key, regex in outputs_to_match.items()]
    keys: list[Any] = []
    start = 0
    # The next match of each pattern from `start` on, which stays the next one until `start` is behind it.
    spans: dict[int, tuple[int, int] | None] = {}
    while start < len(text):
        for number, (_, pattern) in enumerate(patterns):
            if start == 0 or ((span := spans[number]) and span[0] < start):
                spans[number] = _next_span(pattern, text, start)
        nearest = {
            number: _span_at(pattern, text, start) or spans[number] for number, (_, pattern) in enumerate(patterns)
        }
        matches = [(*span, number) for number, span in nearest.items() if span]
        if not matches:
            break
        _, end, number = min(matches, key=lambda match: (match[0], match[2]))
        keys.append(patterns[number][0])
        start = max(end, start + 1)
    return keys


def _next_span(pattern: re.Pattern[str], text: str, start: int) -> tuple[int, int] | None:
    match = pattern.search(text, start)
    return match.span() if match else None


def _span_at(pattern: re.Pattern[str], text: str, start: int) -> tuple[int, int] | None:
    """Return a match exactly at `start`, as if the text began there: alpaca_eval cuts it off, and ^ matches there."""
    rest = text[start : start + WINDOW]
    match = pattern.match(rest) if start else None
    is_whole = match is not None and (match.end() < len(rest) or start + WINDOW >= len(text))
    return (start + match.start(), start + match.end()) if match and is_whole else None


def ranking_parser(text: Any, model_1_name: str = "model_1") -> list[Any]:
    """Return the rank of the first model in a list of {"model", "rank"}."""
    ranks = ast.literal_eval(text) if isinstance(text, str) else text
    entries = [*ranks, {"model": model_1_name, "rank": None}]
    return [next(entry["rank"] for entry in entries if entry["model"] == model_1_name)]


def json_parser(text: str, annotation_key: str | None = None) -> list[Any]:
    """Return the value of a key in a JSON object, or in each of a list of them; a fenced block counts alone."""
    fenced = re.search(r"```json(.*?)```", text, re.DOTALL)
    content = json.loads(fenced[1] if fenced else text)
    entries = content if isinstance(content, list) else [content]
    return [entry if annotation_key is None else entry[annotation_key] for entry in entries]


def pipeline_meta_parser(text: Any, parsers_to_kwargs: Mapping[str, Mapping[str, Any] | None]) -> list[Any]:
    """Apply parsers one after the other."""
    values = [text]
    for name, settings in parsers_to_kwargs.items():
        values = [result for value in values for result in PARSERS[name](value, **(settings or {}))]
    return values


def logprob_parser(
    choice: Mapping[str, Any],
    numerator_token: str,
    denominator_tokens: Sequence[str],
    is_binarize: bool = True,
    log_prob_index: int | str = "batch",
) -> list[float]:
    """Return 2 - p(numerator) / p(denominators) from a token's log-probabilities.

    With `is_binarize` it is 1 if the numerator is the likeliest token, else 2.
    """
    tokens = choice["logprobs"]["content"]
    tokens = tokens if log_prob_index == "batch" else [tokens[int(log_prob_index)]]
    return [_weigh(token["top_logprobs"], numerator_token, denominator_tokens, is_binarize) for token in tokens]


def _weigh(top: Sequence[Mapping[str, Any]], numerator: str, denominators: Sequence[str], binarize: bool) -> float:
    """Return the preference of one token. An option that is not among its top tokens has the probability 0.

    Raises ValueError if none of the options is.
    """
    options = (*denominators, numerator)
    probabilities = {entry["token"]: math.exp(entry["logprob"]) for entry in top if entry["token"] in options}
    total = sum(probabilities.get(token, 0.0) for token in denominators)
    share = probabilities.get(numerator, 0.0)
    if not total:
        raise ValueError(f"none of {denominators}")
    if binarize:
        return 1 if all(share > probabilities.get(token, 0.0) for token in denominators if token != numerator) else 2
    return 2 - share / total


PARSERS: dict[str, Any] = {
    parser.__name__: parser
    for parser in (regex_parser, ranking_parser, json_parser, pipeline_meta_parser, logprob_parser)
}
