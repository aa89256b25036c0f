"""How fast is exact novelty? Pool against the way of Stanford Alpaca, in one run, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/novelty.py [texts, 10000] [texts for Alpaca's way, 300]

Alpaca's way scores a new instruction against every known one with rouge_score's LCS, which is written in Python. That
would take the better part of an hour, so it runs on the first few hundred texts, where its verdicts are compared too,
and its time for all of them is the measured time per pair times the number of pairs: "extrapolated" in the table.
"""

import random
import sys
import time

from rouge_score import rouge_scorer

from isheep.novelty import Pool, words

LIMIT = 0.7


def parts(text: str) -> list[str]:
    return [part.strip() for part in text.split("|")]


VERBS = parts("""Describe|Explain|Summarize|Compare|Suggest|List|Write|Rewrite|Translate|Classify|Identify|Outline|
    Draft|Create|Generate|Design|Propose|Evaluate|Discuss|Analyze|Estimate|Convert|Find|Name|Edit|Correct|Recommend""")
FORMS = parts("""a short story about|three ways to improve|the main causes of|the difference between good and bad|
    an email about|a polite reply to a question on|the advantages and disadvantages of|a four line poem on|
    a weekly plan for|the history of|five interview questions about|a step by step guide to|a list of synonyms for|
    one common misunderstanding about|a catchy headline on|the most important facts about|what is special about|
    a dialogue between two friends about|the ethical problems of|how much people spend on""")
KINDS = parts("""modern|medieval|urban|rural|sustainable|affordable|digital|traditional|remote|seasonal|personal|public|
    renewable|ancient|coastal|scientific|classical|competitive|domestic|emotional|financial|global|healthy|mobile""")
TOPICS = parts("""gardening|public transport|sleep|photosynthesis|job interviews|chess openings|climate policy|jazz|
    online shopping|black holes|user interfaces|team meetings|childhood friendships|tax returns|wild birds|novels|
    coffee|data privacy|mountain hiking|school uniforms|electric cars|the water cycle|folk tales|machine translation|
    budget travel|volcanoes|vegetarian cooking|the printing press|time management|ocean plastic|customer complaints|
    running shoes|space probes|street markets|language learning|home insurance|bread baking|vaccines|city parks""")
PEOPLE = parts("""|for a ten year old reader|for my grandmother|for a company newsletter|for new parents|for nurses|
    for a town council|for a hostile room|for students of law|for people in a hurry|from a farmer's point of view""")
ENDS = parts("""|in no more than fifty words|using only simple words|and give one example|as a bulleted list|
    without naming the subject directly|in a formal tone|and explain your reasoning step by step|as a table|
    so that a beginner can follow|with a surprising last sentence|in the style of a news report|and add a question""")


SYLLABLES = parts("""ba|cor|den|el|fi|gran|hol|is|jo|kel|lu|mar|nor|os|pe|quin|ri|sol|ta|ul|ver|wes|yn|zan""")


def instruction(rng: random.Random) -> str:
    """A command of 5 to 40 words: a form, one to three topics, and perhaps a place, readers and a demand."""
    topic = " and ".join(f"{rng.choice(KINDS)} {rng.choice(TOPICS)}" for _ in range(rng.randint(1, 3)))
    place = f"in {''.join(rng.choices(SYLLABLES, k=3))} around {rng.randint(1800, 2030)}" if rng.random() < 0.7 else ""
    return " ".join(
        f"{rng.choice(VERBS)} {rng.choice(FORMS)} {topic} {place} {rng.choice(PEOPLE)} {rng.choice(ENDS)}".split()
    )


def by_rouge_score(known: list[str], texts: list[str]) -> tuple[list[bool], int]:
    """Alpaca's way: (whether each text is kept, how many pairs were scored)."""
    tokens, kept, pairs = [words(text) for text in known], [], 0
    for text in texts:
        new = words(text)
        scores = [rouge_scorer._score_lcs(new, other).fmeasure for other in tokens]
        pairs += len(scores)
        kept.append(max(scores) <= LIMIT)
        if kept[-1]:
            tokens.append(new)
    return kept, pairs


def main(count: int, few: int) -> None:
    rng = random.Random(0)
    seeds, texts = [instruction(rng) for _ in range(175)], [instruction(rng) for _ in range(count)]

    start = time.process_time()
    kept = [verdict is None for verdict in Pool(seeds, LIMIT).novel(texts)]
    ours = time.process_time() - start

    start = time.process_time()
    theirs_kept, theirs_pairs = by_rouge_score(seeds, texts[:few])
    theirs = time.process_time() - start
    pairs = sum(len(seeds) + sum(kept[:i]) for i in range(count))
    whole = theirs / theirs_pairs * pairs

    same = "the same" if theirs_kept == kept[:few] else "DIFFERENT"
    print(f"{count} instructions, mean {sum(len(words(t)) for t in texts) / count:.1f} words, {sum(kept)} kept")
    print(f"{'way':<34}{'texts':>8}{'pairs':>13}{'CPU seconds':>12}")
    print(f"{'isheep.novelty.Pool':<34}{count:>8}{pairs:>13}{ours:>12.1f}")
    print(f"{'rouge_score, pair by pair':<34}{few:>8}{theirs_pairs:>13}{theirs:>12.1f}")
    print(f"{'rouge_score, extrapolated':<34}{count:>8}{pairs:>13}{whole:>12.0f}")
    print(f"ratio {whole / ours:.0f}; verdicts on the first {few}: {same}")


if __name__ == "__main__":
    given = [int(value) for value in sys.argv[1:]]
    main(*given, *(10_000, 300)[len(given) :])
