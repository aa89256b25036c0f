"""AlpacaEval's judges: what an evaluator configuration of theirs asks, in which order, and how its reply is read.

Configurations and prompts are read from the user's copy of alpaca_eval's evaluators_configs; the rules are its own
(0.6): the order of the two outputs is drawn from the instruction, and each parser is known by its name there.
"""

import ast
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from isheep import prompts
from isheep.benchmarks.support.data_files import read_text
from isheep.errors import UserError
from isheep.judges.base import Messages
from isheep.openai_client import ServerReply

SEED = 0  # AlpacaEval's, of the order in which outputs are shown
DEFAULTS = {"temperature": 0.7, "top_p": 1.0, "max_tokens": 2048}  # of its requests
HOW = ("requires_chatml", "is_chat", "num_procs", "batch_size", "price_per_token", "client_kwargs", "is_strip")
TURN = re.compile(r"<\|im_start\|>(.*?)\n(.*?)<\|im_end\|>", re.DOTALL)


class Evaluator(NamedTuple):
    """An evaluator configuration."""

    name: str
    model: str  # the judge that it names
    template: Messages
    parameters: dict[str, Any]
    parser: str
    how: dict[str, Any]  # the parser's settings
    whole: bool  # whether it keeps the whole completion, or its text

    @property
    def options(self) -> list[str]:
        """The tokens whose probabilities count, where they do."""
        return list(dict.fromkeys([self.how["numerator_token"], *self.how["denominator_tokens"]])) if self.whole else []

    def ask(self, instruction: str, first: str, second: str) -> Messages:
        """The judge prompt; each text stands where its name is in the template, whatever braces it holds."""
        values = {"instruction": instruction, "output_1": first, "output_2": second}
        return [{**turn, "content": prompts.fill_template(turn["content"], **values).strip()} for turn in self.template]

    def preference(self, reply: ServerReply) -> float | None:
        """1 to 2, from the first output to the second; None where it can't be read."""
        if reply.error:
            return None
        try:
            found = PARSERS[self.parser]((reply.choice or {}) if self.whole else reply.text, **self.how)
        except (ValueError, LookupError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError):
            return None
        value = found[0] if len(found) == 1 else None
        known = isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= 2
        return float(value) if known and value is not None else None

    def raw(self, reply: ServerReply) -> Any:
        """What an annotation keeps as raw_completion."""
        if reply.error or not self.whole:
            return None if reply.error else reply.text
        return {
            **(reply.choice or {}),
            "text": reply.text,
            "total_tokens": (reply.read or 0) + (reply.written or 0),
        }


def switched(instruction: str) -> bool:
    """Whether the second output is shown first: AlpacaEval's draw."""
    return random.Random(f"is_switched_outputs{instruction}{SEED}").choices([False, True], k=1)[0]


def load(data: Path, name: str) -> Evaluator:
    """The configuration `name` of the folder evaluators_configs in `data`, or of `data` where it is that folder.

    Raises UserError where it can't be read, or asks for what only alpaca_eval itself can do.
    """
    home = data / "evaluators_configs" if (data / "evaluators_configs").is_dir() else data
    path = home / name / "configs.yaml"
    try:
        content = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or len(content) != 1 or not isinstance(next(iter(content.values())), dict):
        raise UserError(f"{path}: one annotator is wanted, with its settings")
    ((name, given),) = content.items()
    asked = dict(given.get("completions_kwargs") or {})
    how = dict(given.get("completion_parser_kwargs") or {})
    parser = given.get("fn_completion_parser", "regex_parser")
    _possible(path, given, asked, parser)
    return Evaluator(
        name=str(name),
        model=str(asked.pop("model_name", "gpt-4")),
        template=conversation(read_text(home / str(given.get("prompt_template")))),
        parameters={**DEFAULTS, **{key: value for key, value in asked.items() if key not in HOW}},
        parser=parser,
        how=how,
        whole=given.get("completion_key") == "completions_all",
    )


def _possible(path: Path, given: Mapping[str, Any], asked: Mapping[str, Any], parser: Any) -> None:
    if parser not in PARSERS:
        raise UserError(f"{path}: parser {parser!r} is not known here: take a configuration with {', '.join(PARSERS)}")
    if given.get("fn_completions", "openai_completions") != "openai_completions" or given.get("batch_size", 1) != 1:
        raise UserError(f"{path}: only openai_completions with batch_size 1 is asked here: take such a configuration")
    if {"tokens_to_favor", "tokens_to_avoid"} & asked.keys():
        raise UserError(f"{path}: tokens_to_favor and tokens_to_avoid need the judge's tokenizer: take another one")
    if (parser == "logprob_parser") != (given.get("completion_key") == "completions_all"):
        raise UserError(f"{path}: logprob_parser and completion_key: completions_all belong together")


def conversation(template: str) -> Messages:
    """A prompt file's turns: ChatML, or a single turn of the user."""
    turns = TURN.findall(template)
    if not turns:
        return [{"role": "user", "content": template.strip()}]
    return [{"role": role.strip(), "content": content.strip()} for role, content in turns]


# --- parsers: each gives all the preferences that it finds, and there must be one


def regex_parser(text: str, outputs_to_match: Mapping[float, str]) -> list[Any]:
    """The keys of the patterns in the order in which they match, none of them twice in one place."""
    found = []
    while text:
        matches = [(match, key) for key, one in outputs_to_match.items() if (match := re.search(one, text))]
        if not matches:
            break
        match, key = min(matches, key=lambda pair: pair[0].start())
        found.append(key)
        text = text[max(match.end(), 1) :]
    return found


def ranking_parser(text: Any, model_1_name: str = "model_1") -> list[Any]:
    """The rank of the first model in a list of {"model", "rank"}."""
    ranks = ast.literal_eval(text) if isinstance(text, str) else text
    return [
        next(one["rank"] for one in [*ranks, {"model": model_1_name, "rank": None}] if one["model"] == model_1_name)
    ]


def json_parser(text: str, annotation_key: str | None = None) -> list[Any]:
    """What stands under a key in a JSON object, or in each of a list of them; a fenced block counts alone."""
    fenced = re.search(r"```json(.*?)```", text, re.DOTALL)
    content = json.loads(fenced[1] if fenced else text)
    return [one if annotation_key is None else one[annotation_key] for one in _listed(content)]


def _listed(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


def pipeline_meta_parser(text: Any, parsers_to_kwargs: Mapping[str, Mapping[str, Any] | None]) -> list[Any]:
    """Parsers one after the other."""
    found = [text]
    for name, how in parsers_to_kwargs.items():
        found = [value for one in found for value in PARSERS[name](one, **(how or {}))]
    return found


def logprob_parser(
    choice: Mapping[str, Any],
    numerator_token: str,
    denominator_tokens: Sequence[str],
    is_binarize: bool = True,
    log_prob_index: int | str = "batch",
) -> list[float]:
    """2 - p(numerator) / p(denominators), from a token's log-probabilities; binarized, whether it is the likeliest."""
    tokens = choice["logprobs"]["content"]
    tokens = tokens if log_prob_index == "batch" else [tokens[int(log_prob_index)]]
    return [_weigh(one["top_logprobs"], numerator_token, denominator_tokens, is_binarize) for one in tokens]


def _weigh(top: Sequence[Mapping[str, Any]], numerator: str, denominators: Sequence[str], binarize: bool) -> float:
    """Raises ValueError where none of the tokens is there. One that is not has the probability 0."""
    chances = {one["token"]: math.exp(one["logprob"]) for one in top if one["token"] in (*denominators, numerator)}
    total = sum(chances.get(token, 0.0) for token in denominators)
    chosen = chances.get(numerator, 0.0)
    if not total:
        raise ValueError(f"none of {denominators}")
    if binarize:
        return 1 if all(chosen > chances.get(token, 0.0) for token in denominators if token != numerator) else 2
    return 2 - chosen / total


PARSERS: dict[str, Any] = {
    one.__name__: one for one in (regex_parser, ranking_parser, json_parser, pipeline_meta_parser, logprob_parser)
}
