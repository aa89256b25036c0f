"""How fast is exact novelty? One pool that grows, and the way of Stanford Alpaca beside it.

    python benchmarks/novelty.py [--most 50000] [--alpaca 300]     # --most 500000: the whole curve

The pool is asked about `--most` made-up instructions in turn, as a synthesis asks it, and stands in the table at each
size on the way there. CPU seconds are those of all threads (OMP_NUM_THREADS, or all cores), so they hold on a busy
machine too; divided by the threads they are the least wall time.

Alpaca's way scores a new instruction against every known one with rouge_score's LCS, which is written in Python. That
would take hours, so it runs on the first `--alpaca` instructions, where its verdicts are compared too, and its time for
more is the measured time per pair times the number of pairs.
"""

import argparse
import random
import resource
import time

from rouge_score import rouge_scorer

from isheep.batching import num_cpu_threads
from isheep.text.novelty import NoveltyPool, split_words

SIZES = (1_000, 5_000, 10_000, 50_000, 100_000, 200_000, 500_000)
NAMES = 20_000  # different invented names, drawn by Zipf's law
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


def name(rng: random.Random) -> str:
    """An invented name: the n-th is drawn 1/n as often as the first."""
    own = random.Random(int(NAMES ** rng.random()))
    return "".join(own.choices(SYLLABLES, k=own.randint(2, 4)))


def instruction(rng: random.Random) -> str:
    """A command of 5 to 40 words: a form, one to three topics, and perhaps a place, readers and a demand."""
    topic = " and ".join(f"{rng.choice(KINDS)} {rng.choice(TOPICS)}" for _ in range(rng.randint(1, 3)))
    setting = f"in {name(rng)} around {rng.randint(1800, 2030)}" if rng.random() < 0.7 else ""
    about = f"for {name(rng)} and {name(rng)}" if rng.random() < 0.5 else ""
    return " ".join(
        f"{rng.choice(VERBS)} {rng.choice(FORMS)} {topic} {about} {setting} {rng.choice(PEOPLE)} "
        f"{rng.choice(ENDS)}".split()
    )


def by_rouge_score(known_count: list[str], texts: list[str]) -> tuple[list[bool], int]:
    """Alpaca's way: (whether each text is kept, how many pairs were scored)."""
    tokens, kept, pairs = [split_words(text) for text in known_count], [], 0
    for text in texts:
        new = split_words(text)
        scores = [rouge_scorer._score_lcs(new, tokens_of_kept).fmeasure for tokens_of_kept in tokens]
        pairs += len(scores)
        kept.append(max(scores) <= LIMIT)
        if kept[-1]:
            tokens.append(new)
    return kept, pairs


def main(max_count: int, few: int) -> None:
    rng = random.Random(0)
    seeds, texts = [instruction(rng) for _ in range(175)], [instruction(rng) for _ in range(max_count)]

    start = time.process_time()
    theirs_kept, theirs_pairs = by_rouge_score(seeds, texts[:few])
    seconds_per_pair = (time.process_time() - start) / theirs_pairs

    mean = sum(len(split_words(text)) for text in texts[:1000]) / len(texts[:1000])
    print(
        f"instructions of {mean:.1f} words; rouge_score takes {1e6 * seconds_per_pair:.0f} us per pair; "
        f"{num_cpu_threads()} threads"
    )
    print(f"{'texts':>8}{'kept':>8}{'pairs':>9}{'CPU s':>8}{'wall s':>8}{'rouge_score, h':>16}{'ratio':>8}{'MB':>6}")
    pool, kept, pairs, cpu, wall = NoveltyPool(seeds, LIMIT), list[bool](), 0, 0.0, 0.0
    for size in sorted({size for size in SIZES if size < max_count} | {max_count}):
        before = (time.process_time(), time.perf_counter())
        verdicts = pool.novel(texts[len(kept) : size])
        cpu, wall = cpu + time.process_time() - before[0], wall + time.perf_counter() - before[1]
        known_count = len(pool) - sum(verdict is None for verdict in verdicts)
        for verdict in verdicts:
            pairs += known_count
            known_count += verdict is None
            kept.append(verdict is None)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"{size:>8}{sum(kept):>8}{pairs:>9.1e}{cpu:>8.1f}{wall:>8.1f}{seconds_per_pair * pairs / 3600:>16.1f}"
            f"{seconds_per_pair * pairs / cpu:>8.0f}{peak:>6}",
            flush=True,
        )
    print(f"verdicts on the first {few}: {'the same' if theirs_kept == kept[:few] else 'DIFFERENT'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How fast is exact novelty?")
    parser.add_argument("--most", type=int, default=50_000, help="instructions in all")
    parser.add_argument("--alpaca", type=int, default=300, help="instructions that rouge_score is run on")
    args = parser.parse_args()
    main(args.most, args.alpaca)
