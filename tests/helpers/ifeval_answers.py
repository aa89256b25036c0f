"""Made-up answers to IFEval's prompts: most follow their instructions or miss one by one, and then something is done
to them that checkers read in their own way."""

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from isheep.benchmarks import ifeval
from isheep.benchmarks.ifeval import Item
from isheep.errors import UserError


def require_checkers() -> dict[str, Any]:
    """Return the checkers of IFEval; skip the test if they are not installed."""
    try:
        return ifeval.checkers()
    except UserError as error:
        pytest.skip(str(error))


SPOKEN = {
    "ar": "الخروف يأكل العشب الطازج في المرج الأخضر. الراعي ينام تحت شجرة كبيرة.",
    "bg": "Овцата яде прясна трева на зелената поляна. Овчарят спи под голямото дърво и не се събужда.",
    "bn": "ভেড়া সবুজ মাঠে তাজা ঘাস খায়। রাখাল একটি বড় গাছের নিচে ঘুমায়।",
    "de": "Das Schaf steht heute auf der grünen Wiese und frisst das frische Gras. Der Hirte schläft.",
    "fa": "گوسفند در چمنزار سبز علف تازه می‌خورد. چوپان زیر درخت بزرگ می‌خوابد.",
    "fi": "Lammas syö tuoretta ruohoa vihreällä niityllä. Paimen nukkuu suuren puun alla.",
    "gu": "ઘેટું લીલા મેદાનમાં તાજું ઘાસ ખાય છે. ભરવાડ મોટા ઝાડ નીચે સૂવે છે.",
    "hi": "भेड़ हरे मैदान में ताज़ी घास खाती है। चरवाहा एक बड़े पेड़ के नीचे सोता है।",
    "it": "La pecora mangia l'erba fresca nel prato verde. Il pastore dorme sotto un grande albero.",
    "ja": "羊は緑の草原で新鮮な草を食べる。羊飼いは大きな木の下で眠る。",
    "kn": "ಕುರಿ ಹಸಿರು ಹುಲ್ಲುಗಾವಲಿನಲ್ಲಿ ಹುಲ್ಲು ತಿನ್ನುತ್ತದೆ. ಕುರುಬ ದೊಡ್ಡ ಮರದ ಕೆಳಗೆ ಮಲಗುತ್ತಾನೆ.",
    "ko": "양은 푸른 초원에서 신선한 풀을 먹는다. 목자는 큰 나무 아래에서 잔다.",
    "mr": "मेंढी हिरव्या कुरणात ताजे गवत खाते. मेंढपाळ मोठ्या झाडाखाली झोपतो आहे.",
    "ne": "भेडाले हरियो चौरमा ताजा घाँस खान्छ। गोठालो ठूलो रूखमुनि सुत्छ।",
    "pa": "ਭੇਡ ਹਰੇ ਮੈਦਾਨ ਵਿੱਚ ਤਾਜ਼ਾ ਘਾਹ ਖਾਂਦੀ ਹੈ। ਚਰਵਾਹਾ ਵੱਡੇ ਰੁੱਖ ਹੇਠ ਸੌਂਦਾ ਹੈ।",
    "pl": "Owca je świeżą trawę na zielonej łące. Pasterz śpi pod dużym drzewem.",
    "pt": "A ovelha come erva fresca no prado verde. O pastor dorme debaixo de uma árvore e não acorda.",
    "ru": "Овца ест свежую траву на зелёном лугу. Пастух спит под большим деревом.",
    "sw": "Kondoo anakula nyasi mbichi kwenye malisho ya kijani. Mchungaji analala chini ya mti mkubwa.",
    "ta": "ஆடு பச்சை புல்வெளியில் புல் மேய்கிறது. மேய்ப்பன் பெரிய மரத்தின் கீழ் தூங்குகிறான்.",
    "te": "గొర్రె పచ్చని మైదానంలో తాజా గడ్డి తింటుంది. కాపరి పెద్ద చెట్టు కింద నిద్రపోతాడు.",
    "th": "แกะกินหญ้าสดในทุ่งหญ้าสีเขียว คนเลี้ยงแกะนอนใต้ต้นไม้ใหญ่",
    "ur": "بھیڑ سبز چراگاہ میں تازہ گھاس کھاتی ہے۔ چرواہا ایک بڑے درخت کے نیچے سوتا ہے۔",
    "vi": "Con cừu ăn cỏ tươi trên đồng cỏ xanh. Người chăn cừu ngủ dưới gốc cây lớn.",
}
SAID = (
    "The sheep eats grass in the meadow", "A shepherd sleeps under the old tree", "Wool is warm and soft in winter",
    "Dr. Ram paid $3.50 for the lamb", "It is raining again today", "They walked home, slowly",
)  # fmt: skip
BARE = (
    "", " \n\t\n", "*", "***", "******", "a", "12345 67.89 !!!", "\U0001f411", "[]", "{}", '""', "<<x>>", "P.P.S",
    "\x00", "\ud83d", "-\n-\n*", "1" * 5000, "```", "\n" * 99,
)  # fmt: skip
Change = Callable[[str, random.Random], str]
CHANGES: tuple[Change, ...] = (
    lambda text, rng: text,
    lambda text, rng: rng.choice(["Sure, here:\n", "Well!\n\n", "# Wool\n", "*\n", "\n", "Here, friend:\r\n"]) + text,
    lambda text, rng: text + rng.choice(["\nBye, friend!", "\n\nBaa.", "\n", "\n***", "\n\n\n", "\r\nBye, A"]),
    lambda text, rng: f"Sure, here:\n{text}\nBye, friend!",
    lambda text, rng: f"**{text}**",
    lambda text, rng: text.replace("*", ""),
    lambda text, rng: text.replace("*", "**"),
    lambda text, rng: text.upper(),
    lambda text, rng: text.lower(),
    lambda text, rng: text.title(),
    lambda text, rng: f'"{text}"',
    lambda text, rng: f"“{text}”",
    lambda text, rng: text.replace('"', "''"),
    lambda text, rng: text.replace(*rng.choice([(" ", "\u00a0"), ("\n", "\u2028"), ("\n", "\x0b"), (",", "，")])),
    lambda text, rng: text.replace(*rng.choice([("a", "а"), ("*", "＊"), (".", "。"), ("e", "e\u0301")])),
    lambda text, rng: rng.choice(["\ufeff", "\u200b", "\x00", ""]) + text + rng.choice(["\u0130\u00df", "\ud800", ""]),
    lambda text, rng: text.replace("\n", "\r\n"),
    lambda text, rng: json.dumps(text),
    lambda text, rng: f"```json\n{json.dumps({'text': text})}\n```",
    lambda text, rng: text[: rng.randrange(len(text) + 1)],
    lambda text, rng: text[rng.randrange(len(text) + 1) :],
    lambda text, rng: f"{text}\n******\n{text}{rng.choice(['', '.'])}",
    lambda text, rng: "\n".join(f"{rng.choice('*-')} {line}" for line in text.split("\n")),
    lambda text, rng: " ".join(text.split()),
    lambda text, rng: text.replace(" ", "\n\n", 3),
    lambda text, rng: text.replace(". ", ".\n***\n", 2),
    lambda text, rng: f" \n {text} \n ",
    lambda text, rng: f"{text}\n{text}",
    lambda text, rng: text.replace("[", "[[").replace("]", "\n]"),
    lambda text, rng: f"<think>\nHm, no.\n</think>\n{text}",
    lambda text, rng: f"{text} {rng.choice(list(SPOKEN.values()))}",
)


def answers(item: Item, count: int) -> Iterator[str]:
    """`count` answers to a prompt, always the same."""
    rng = random.Random(item.key)
    for _ in range(count):
        text = rng.choice(BARE) if rng.random() < 0.08 else followed(item, rng, rng.choice([0, 0, 0, -1, 1]))
        for change in rng.choices(CHANGES, k=rng.choice([0, 1, 1, 2])):
            text = change(text, rng)
        yield text


def followed(item: Item, rng: random.Random, off: int) -> str:
    """A text that mostly does what is asked, where numbers count with `off` more than that."""
    values = zip(item.instruction_id_list, item.kwargs, strict=True)
    prompts_seen = {
        kind: {name: value for name, value in subset.items() if value is not None} for kind, subset in values
    }
    text = _words(prompts_seen, rng, off)
    for kind, how in FORMS.items():
        if kind in prompts_seen:
            text = how(text, prompts_seen[kind], rng, off)
    return text


def _words(prompts_seen: dict[str, dict[str, Any]], rng: random.Random, off: int) -> str:
    """What the answer says, and how long it is."""
    of = prompts_seen.get("length_constraints:number_sentences")
    count = _target(of["num_sentences"], of["relation"], off) if of else 4
    text = " ".join(rng.choice(SAID) + rng.choice([".", ".", "!", "?", "..."]) for _ in range(count))
    if of := prompts_seen.get("language:response_language"):
        text = SPOKEN.get(of["language"], text)
    if of := prompts_seen.get("length_constraints:number_words"):
        expected = _target(of["num_words"], of["relation"], off)
        words = text.split()[:expected]
        while (missing := expected - len(re.findall(r"\w+", " ".join(words)))) > 0:
            words += [rng.choice(["baa", "wool", "don't", "e-mail"]) for _ in range((missing + 1) // 2)]
        text = " ".join(words)
    if of := prompts_seen.get("keywords:letter_frequency"):
        expected, letter = _target(of["let_frequency"], of["let_relation"], off), of["letter"].lower()
        present = text.lower().count(letter)
        text = (
            text + " " + letter * (expected - present)
            if expected > present
            else text.lower().replace(letter, "", present - expected)
        )
    return text


def _target(number: int, relation: str, off: int) -> int:
    return max(0, number + off - (relation == "less than"))


def _paragraphs(text: str, of: dict[str, Any], rng: random.Random, off: int) -> str:
    divider = rng.choice(["\n***\n", "\n***\n", " *** ", "***", "\n* * *\n", "\n****\n"])
    complete = divider.join([text, *rng.choices(SAID, k=max(0, of["num_paragraphs"] - 1 + off))])
    return rng.choice(["", "", divider]) + complete + rng.choice(["", "", divider])


def _first_word(text: str, of: dict[str, Any], rng: random.Random, off: int) -> str:
    message = rng.choices(SAID, k=max(1, of["num_paragraphs"] + off))
    if of["nth_paragraph"] <= len(message):
        word = rng.choice([str.lower, str.title, str.upper])(of["first_word"])
        opened = rng.choice(["", "", "'", '"', "''\"", "*", "“"]) + word
        message[of["nth_paragraph"] - 1] = opened + rng.choice([" ", ", ", ". ", "\n", "-"]) + "more."
    return rng.choice(["\n\n", "\n\n", "\n\n\n", "\n\n\n\n"]).join(message)


def _sections(text: str, of: dict[str, Any], rng: random.Random, off: int) -> str:
    space, mark = rng.choice([" ", " ", "", "  "]), rng.choice(["", "**", "## "])
    heads = [f"{mark}{of['section_spliter']}{space}{n + 1}" for n in range(max(0, of["num_sections"] + off))]
    return "\n".join([f"{head}\n{rng.choice(SAID)}." for head in heads] + [text])


def _repeated(word: str, number: int) -> str:
    return f" {word}" * max(0, number)


FORMS: dict[str, Callable[[str, dict[str, Any], random.Random, int], str]] = {
    "keywords:existence": lambda text, of, rng, off: " ".join(
        [text, *of["keywords"][: len(of["keywords"]) + off or 1]]
    ),
    "keywords:frequency": lambda text, of, rng, off: (
        text + _repeated(of["keyword"], _target(of["frequency"], of["relation"], off))
    ),
    "keywords:forbidden_words": lambda text, of, rng, off: (
        text
        + rng.choice([" {}", " {}s", " x{}", " {}.", " -{}-"]).format(rng.choice(of["forbidden_words"])) * (off > 0)
    ),
    "change_case:capital_word_frequency": lambda text, of, rng, off: (
        text + _repeated("WOOL", _target(of["capital_frequency"], of["capital_relation"], off))
    ),
    "detectable_content:number_placeholders": lambda text, of, rng, off: (
        text + _repeated("[name]", of["num_placeholders"] + off)
    ),
    "detectable_format:number_highlighted_sections": lambda text, of, rng, off: (
        text + _repeated(rng.choice(["*a b*", "*a b*", "**a**", "***a***", "* *"]), of["num_highlights"] + off)
    ),
    "detectable_format:number_bullet_lists": lambda text, of, rng, off: (
        text + f"\n{rng.choice(['* ', '* ', '- ', '*', '  * ', '** '])}wool" * max(0, of["num_bullets"] + off)
    ),
    "detectable_format:multiple_sections": _sections,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_format:constrained_response": lambda text, of, rng, off: rng.choice(
        ["My answer is yes.", "My answer is no.", "my answer is maybe.", "My answer is maybe. " + text]
    ),
    "detectable_format:title": lambda text, of, rng, off: (
        rng.choice(["<<Wool>>", "<<Wool>>", "<< >>", "<<<Wool>>>", "<<a\nb>>", "<Wool>"]) + "\n" + text
    ),
    "combination:two_responses": lambda text, of, rng, off: rng.choice(
        ["\n******\n", "******", "\n*******\n", "\n******\n******\n"]
    ).join([text, text + " Baa." * (off == 0)]),
    "detectable_content:postscript": lambda text, of, rng, off: (
        text + "\n" + rng.choice([of["postscript_marker"], of["postscript_marker"], "p.s.", "P. P. S", "PS:"]) + " Baa."
    ),
    "combination:repeat_prompt": lambda text, of, rng, off: (
        rng.choice(["{}", "{}", "**{}**", " {}"]).format(of["prompt_to_repeat"][: -1 if off < 0 else None])
        + "\n"
        + text
    ),
    "startend:end_checker": lambda text, of, rng, off: (
        text + rng.choice([" {}", "\n{}", ' {}"', " {}.", " *{}*", " {}  \n"]).format(of["end_phrase"])
    ),
    "change_case:english_capital": lambda text, of, rng, off: text.upper(),
    "change_case:english_lowercase": lambda text, of, rng, off: text.lower(),
    "punctuation:no_comma": lambda text, of, rng, off: text if off > 0 else text.replace(",", ""),
    "detectable_format:json_format": lambda text, of, rng, off: (
        rng.choice(["%s", "```json\n%s\n```", "```JSON\n%s\n```", "```\n%s```", "```JSon\n%s\n```"])
        % json.dumps({"text": text}, ensure_ascii=off == 0)
    ),
    "startend:quotation": lambda text, of, rng, off: (
        rng.choice(['"%s"', '"%s"', "“%s”", '"%s', '**"%s"**', '"%s"\n']) % text
    ),
}
