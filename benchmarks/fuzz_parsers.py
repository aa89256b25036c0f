"""The parsers that `benchmarks.fuzz` feeds: of texts that a model wrote, and of files that a stranger may hand over.

Each has texts to begin with. A parser raises UserError or nothing; a file's parser gets the path of a file.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

from isheep import prompts
from isheep.annotation import Choice, Rating, mean_ratings, points_of_later, read_annotations
from isheep.api.recipes import load_recipe
from isheep.benchmarks import ifeval, lamb
from isheep.benchmarks.standard import squad2
from isheep.benchmarks.support import alpaca_evaluators, data_files, fastchat, opencompass, programs, responses
from isheep.errors import UserError
from isheep.evaluation import judgment_files
from isheep.evaluation.formatting import escape_unprintable
from isheep.judges.base import safe_file_name
from isheep.lamb import world
from isheep.lamb.suite import suite
from isheep.models import adapter_check, declared_sizes, prompt_text
from isheep.openai_client import ServerReply
from isheep.prompts import forms, jinja_syntax
from isheep.records import Completion, Grade, Reply
from isheep.seeds import load_seed_file
from isheep.stages import filters, grades, instances, topics
from isheep.stages.blocks import parse_blocks
from isheep.stages.rules import broken_rule, unsafe_text
from isheep.text.characters import unfit_character
from isheep.text.novelty import Language, is_in_script, split_words

TASK = '{"instruction": "Add 2 and 3.", "input": "", "output": "5", "is_classification": false}'
INSTANCE = '{"id": "seed_1", "instruction": "Add.", "instances": [{"input": "2", "output": "3"}]}'
CHAT = '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}'
JUDGMENT = '{"question_id": 81, "model": "m", "judge": ["gpt-4", "single-v1"], "score": 8, "turn": 1, "judgment": "a"}'
PREFERENCE = '{"instruction": "Do", "output_1": "a", "generator_1": "x", "output_2": "b", "preference": 1.5}'
RECIPE = "like: lamb\niterations: 2\nfilters:\n- {kind: score, at_least: 8}\niteration: {2: {training: {epochs: 1}}}\n"
CODE = "Here it is:\n```python\nimport math\ndef add(a, b):\n    return a + b\n```\nIt adds."
TEMPLATE = "{%- for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}{% endfor %}{% generation %}a"
TEMPLATE += "{% endgeneration %}"
BLOCKS = " Name a city.\nInput: <noinput>\nOutput: Rome\n###\n7. Instruction: Add 2 and 3.\nInput: 2, 3\n\n"
RATING = '{"row": "t1-0", "by": "a", "scores": {"quality": 8}}'
CHOICE = '{"task": "a", "of": "b", "by": "c", "left": 0, "right": 1, "chosen": "left"}'
CONFIG = "mine:\n  prompt_template: prompt.txt\n  fn_completion_parser: regex_parser\n  completion_parser_kwargs:\n"
CONFIG += "    outputs_to_match: {1: 'a', 2: 'b'}\n"
ADAPTER = '{"peft_type": "LORA", "r": 8, "rank_pattern": {"q": 4}}'
HEADER = '{"a":{"dtype":"F32","shape":[8,0],"data_offsets":[0,0]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER.encode()
IFEVAL_ANSWERS = ('{"a": [1, 2]}', "* one\n* two\n\nP.S. done", "<<Title>>\n[name] It's fine!", "First.\n\n***\n\nB")


class Parser(NamedTuple):
    """A parser, and the texts to begin with. `of_file` says that it gets the path of a file."""

    parse: Callable[[Any], object]
    examples: tuple[str, ...]
    of_file: bool = False


def _grade(text: str) -> object:
    score = grades.parse_grade(text)
    return score, grades.explanation_in(Grade(score=score, reply=text)), grades.probabilities_in(text)


def _blocks(text: str) -> object:
    blocks = parse_blocks(text, first=6, cut=len(text) % 2 > 0)
    return [_rules(part) for block in blocks for part in (block.instruction, block.input)]


def _rules(text: str) -> object:
    languages: tuple[Language, ...] = get_args(Language)
    verdicts = [broken_rule(text, language) for language in languages if text.strip()]
    return verdicts, [is_in_script(text, language) for language in languages], unsafe_text(text)


def _instance(text: str) -> object:
    return instances.parse_part(Completion(text, 1, "stop"))


def _words(text: str) -> object:
    return split_words(text, "en"), split_words(text, "any")


@cache
def _guide() -> forms.TopicGuide:
    return forms.load_topic_guide("dromedary/topics")


def _topics(text: str) -> object:
    return topics.parse_topics([Reply(id="a", text=text, finish="length", tokens=1)], _guide())


def _spelled(text: str) -> object:
    tokens = frozenset(["<|end|>", "<s>", "</s>", "[INST]"])
    plain = prompt_text.without_marks(text)
    assert prompt_text.unmark(prompt_text.mark_tokens(text, tokens)) == plain
    literal = prompt_text.literal_text(text, tokens)
    assert literal == plain and len(prompt_text.without_literal(literal)) <= len(plain) + 1
    return escape_unprintable(text), unfit_character(text), filters.SPECIAL_TOKEN


def _code(text: str) -> object:
    code = programs.extract(text, "add")
    return programs.body(code), programs.tested_names(programs.Problem("a", "add", "", code, code))


@cache
def _form(name: str) -> opencompass.PromptTemplate:
    return opencompass.load_template(name)


def _standard(text: str) -> object:
    names = ("nq", "triviaqa", "squad2")
    return [
        opencompass.read_letter(text),
        [opencompass.matches(_form(name), text, ["ann lee", text[:9]]) for name in names],
        squad2.words(text),
    ]


@cache
def _quests() -> list[Any]:
    quests: dict[Any, Any] = {quest.family: quest for quest in suite()}
    quests |= {quest.constraints: quest for quest in suite() if quest.constraints}
    return list(quests.values())


def _lamb(text: str) -> object:
    met = [world.follows(constraint, quest, text) for quest in _quests() for constraint in quest.constraints]
    right = [world.content_right(quest, text) for quest in _quests()]
    return met, right, world.understand(text), lamb.variants(text)


def _evaluator(parser: str, settings: dict[str, Any], keeps_choice: bool = False) -> Callable[[str], object]:
    evaluator = alpaca_evaluators.Evaluator("a", "m", [], {}, parser, settings, keeps_choice)

    def prefer(text: str) -> object:
        choice: dict[str, Any] = {"message": {"content": text}}
        return evaluator.preference(ServerReply(key="a", choice=choice))

    return prefer


def _answer_forms(text: str) -> object:
    form = forms.load_answer_form("dromedary/principles")
    return form.read(text), prompts.fill_template(text, instruction=text, k="1"), safe_file_name(text)


def _ifeval_checks(data: Path) -> Iterator[tuple[str, Callable[[str], object]]]:
    """Yield one check of each kind of instruction."""
    registry, kinds = ifeval.checkers(), set[str]()
    for item in ifeval.load(data):
        for kind, check in zip(item.instruction_id_list, ifeval.make_checks(item, registry), strict=True):
            if kind not in kinds:
                kinds.add(kind)
                yield f"IFEval {kind}", partial(ifeval.follows, check)


def _annotations(path: Path) -> object:
    ratings, choices = read_annotations(path, Rating)[0], read_annotations(path, Choice)[0]
    return mean_ratings(ratings), points_of_later(choices)


def _template(text: str) -> object:
    # Without its cache, which would keep every template.
    return jinja_syntax.find_syntax_error.__wrapped__(text)


def _adapter(path: Path) -> object:
    """Read a file as the configuration of an adapter, and as its weights."""
    folder = path.parent
    shutil.copyfile(path, folder / "mine.safetensors")
    with suppress(UserError):
        declared_sizes.read_shapes(folder / "mine.safetensors")
    shutil.copyfile(path, folder / adapter_check.CONFIG)
    (folder / adapter_check.WEIGHTS).write_bytes(WEIGHTS)
    adapter_check.check_adapter(folder)
    return None


def _evaluator_config(path: Path) -> object:
    folder = path.parent / "evaluators_configs" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / "configs.yaml")
    (folder.parent / "prompt.txt").write_text("<|im_start|>user\n{instruction}<|im_end|>")
    return alpaca_evaluators.load_evaluator(path.parent, "mine")


def _table(ending: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        named = path.with_name(f"rows.{ending}")
        shutil.copyfile(path, named)
        return data_files.read_rows(named)

    return read


def _prompt_file(path: Path) -> object:
    named = str(path.rename(path.with_suffix(".yaml")))
    texts = prompts.read_prompt_file(named)
    is_prompts = isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())
    return forms.load_answer_form(texts) if is_prompts else forms.load_topic_guide(named)


def load_parsers(ifeval_data: Path | None) -> dict[str, Parser]:
    """Return all parsers by name; those of IFEval only with its input_data.jsonl."""
    checks = _ifeval_checks(ifeval_data) if ifeval_data else ()
    return (
        _parsers_of_replies()
        | {name: Parser(check, IFEVAL_ANSWERS) for name, check in checks}
        | {"templates": Parser(_template, (TEMPLATE,))}
        | {name: Parser(parse, examples, of_file=True) for name, (parse, examples) in _file_parsers().items()}
    )


def _parsers_of_replies() -> dict[str, Parser]:
    """Return the parsers of texts that a model or a judge wrote."""
    patterns = {1: r"(?:^|\n) ?Output \(a\)", 2: r"(?:^|\n) ?Output \(b\)"}
    by_pattern = _evaluator("regex_parser", {"outputs_to_match": patterns})
    by_key = _evaluator("json_parser", {"annotation_key": "a"})
    ranks = "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]"
    parsers: dict[str, tuple[Callable[[str], object], tuple[str, ...]]] = {
        "ratings": (_grade, ("8||good", "Score: 8/10", "**Overall**: 7.5", "I give it 9 out of 10 || fine", "8: 0.5")),
        "MT-Bench ratings": (fastchat.read_rating, ("Rating: [[8]]", "[[7.5]] or [3]", "[10]")),
        "tasks in a reply": (_blocks, (BLOCKS, "Name a city.\n8) instruction: x")),
        "rules of instructions": (_rules, ("Write a poem about a lamb.", "写一首关于羊的诗", "اكتب قصيدة عن الحمل")),
        "kinds of tasks": (instances.parse_kind, ("Yes", " **No**.", "_yes_")),
        "instances": (_instance, ("a\nOutput: b\n###", "1. b")),
        "topics": (_topics, ("rivers; old maps; the sea.",)),
        "answers after thoughts": (_answer_forms, ("{instruction} (internal thoughts)\nWatson: {k}", "a/b:c")),
        "special tokens": (_spelled, ("a <|end|> b <s>", "\u202eabc\u202c", "\ufdd0<s>\ufdd1")),
        "words": (_words, ("A1 été", "日本語", "ة")),
        "code": (_code, (CODE, "def add(a):\n  return a\nprose", "    return a + b")),
        "standard benchmarks": (_standard, ("The answer is (B).", "answer is the Ann Lee, a", "A.")),
        "lamb's exam": (_lamb, ("The capital of France is Paris.", "<<Rome>>", "12, 13 and 14")),
        "AlpacaEval patterns": (by_pattern, ("Output (a)\nOutput (b)",)),
        "AlpacaEval ranks": (_evaluator("ranking_parser", {}), (ranks,)),
        "AlpacaEval JSON": (by_key, ('```json\n{"a": 1}```', '[{"a": 2}]')),
    }
    return {name: Parser(parse, examples) for name, (parse, examples) in parsers.items()}


def _file_parsers() -> dict[str, tuple[Callable[[Path], object], tuple[str, ...]]]:
    """Return the readers of files that a stranger may hand over, with the contents to begin with."""
    answers = partial(responses.read_question_responses, key="id")
    model_answer = '{"question_id": 81, "model_id": "m", "choices": [{"index": 0, "turns": ["a"]}]}'
    judgments = (f"{JUDGMENT}\n{JUDGMENT}", f"{PREFERENCE}\n{PREFERENCE}", f"[{PREFERENCE}]")
    turn = "turn: |\n  U: {instruction}\n  T: {thoughts}\n  A:\n"
    return {
        "seeds": (load_seed_file, (f"{TASK}\n{INSTANCE}\n{CHAT}", f"[{TASK}, {TASK}]", f'{{"data": [{TASK}]}}')),
        "judgments": (judgment_files.scores_json, judgments),
        "answers to questions": (answers, ('{"id": "a", "response": "b"}', '{"a": "b"}')),
        "answers of MT-Bench": (fastchat.read_answers, (model_answer,)),
        "annotations": (_annotations, (RATING, CHOICE)),
        "tables of benchmarks": (_table("csv"), ("question,answer\na,b\n",)),
        "rows of benchmarks": (_table("jsonl"), ('{"question": "a", "answer": ["b"]}',)),
        "evaluator configurations": (_evaluator_config, (CONFIG,)),
        "prompt files": (_prompt_file, ("chat: 'Answer: {instruction}'\n", turn)),
        "recipes": (load_recipe, (RECIPE,)),
        "files of adapters": (_adapter, (ADAPTER, WEIGHTS.decode())),
    }
