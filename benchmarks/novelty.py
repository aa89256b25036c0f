"""Measure the speed of exact novelty: one pool that grows, and Stanford Alpaca's way beside it.

    python -m benchmarks.novelty [--most 50000] [--alpaca 300]     # --most 500000: all sizes

`--most` made-up instructions are checked against the pool one after another, as in a synthesis; the table has a row for
each size on the way. CPU seconds are those of all threads (OMP_NUM_THREADS, or all cores), so they hold on a busy
machine, too; divided by the number of threads they are the least wall time.

Alpaca compares a new instruction with every known one by rouge_score's LCS, which is written in Python. That would take
hours, so it runs on the first `--alpaca` instructions only, and its verdicts on them are compared. Its time for more is
the measured time per pair times the number of pairs.
"""

import random
import resource
import time
from collections.abc import Sequence

from rouge_score import rouge_scorer

from benchmarks.common import make_parser, run_script
from isheep.batching import num_cpu_threads
from isheep.text.novelty import NoveltyPool, split_words

SIZES = (1_000, 5_000, 10_000, 50_000, 100_000, 200_000, 500_000)
# Different invented names, which are drawn by Zipf's law.
NAMES = 20_000
LIMIT = 0.7


def split_parts(text: str) -> list[str]:
    """Return the parts of a text between bars."""
    return [part.strip() for part in text.split("|")]


VERBS = split_parts("""
    Describe|Explain|Summarize|Compare|Suggest|List|Write|Rewrite|Translate|Classify|Identify|Outline|
    Draft|Create|Generate|Design|Propose|Evaluate|Discuss|Analyze|Estimate|Convert|Find|Name|Edit|Correct|Recommend""")
FORMS = split_parts("""
    a short story about|three ways to improve|the main causes of|the difference between good and bad|
    an email about|a polite reply to a question on|the advantages and disadvantages of|a four line poem on|
    a weekly plan for|the history of|five interview questions about|a step by step guide to|a list of synonyms for|
    one common misunderstanding about|a catchy headline on|the most important facts about|what is special about|
    a dialogue between two friends about|the ethical problems of|how much people spend on""")
KINDS = split_parts("""
    modern|medieval|urban|rural|sustainable|affordable|digital|traditional|remote|seasonal|personal|public|
    renewable|ancient|coastal|scientific|classical|competitive|domestic|emotional|financial|global|healthy|mobile""")
TOPICS = split_parts("""
    gardening|public transport|sleep|photosynthesis|job interviews|chess openings|climate policy|jazz|
    online shopping|black holes|user interfaces|team meetings|childhood friendships|tax returns|wild birds|novels|
    coffee|data privacy|mountain hiking|school uniforms|electric cars|the water cycle|folk tales|machine translation|
    budget travel|volcanoes|vegetarian cooking|the printing press|time management|ocean plastic|customer complaints|
    running shoes|space probes|street markets|language learning|home insurance|bread baking|vaccines|city parks""")
PEOPLE = split_parts("""
    |for a ten year old reader|for my grandmother|for a company newsletter|for new parents|for nurses|
    for a town council|for a hostile room|for students of law|for people in a hurry|from a farmer's point of view""")
ENDS = split_parts("""
    |in no more than fifty words|using only simple words|and give one example|as a bulleted list|
    without naming the subject directly|in a formal tone|and explain your reasoning step by step|as a table|
    so that a beginner can follow|with a surprising last sentence|in the style of a news report|and add a question""")


SYLLABLES = split_parts("""
    ba|cor|den|el|fi|gran|hol|is|jo|kel|lu|mar|nor|os|pe|quin|ri|sol|ta|ul|ver|wes|yn|zan""")


def draw_name(rng: random.Random) -> str:
    """Draw an invented name: the n-th is drawn 1/n as often as the first."""
    name_rng = random.Random(int(NAMES ** rng.random()))
    return "".join(name_rng.choices(SYLLABLES, k=name_rng.randint(2, 4)))


def draw_instruction(rng: random.Random) -> str:
    """Draw an instruction of 5 to 40 words: a form, one to three topics, perhaps a setting, readers and a demand."""
    topic = " and ".join(f"{rng.choice(KINDS)} {rng.choice(TOPICS)}" for _ in range(rng.randint(1, 3)))
    setting = f"in {draw_name(rng)} around {rng.randint(1800, 2030)}" if rng.random() < 0.7 else ""
    about = f"for {draw_name(rng)} and {draw_name(rng)}" if rng.random() < 0.5 else ""
    return " ".join(
        f"{rng.choice(VERBS)} {rng.choice(FORMS)} {topic} {about} {setting} {rng.choice(PEOPLE)} "
        f"{rng.choice(ENDS)}".split()
    )


def filter_by_rouge_score(seeds: Sequence[str], texts: Sequence[str]) -> tuple[list[bool], int]:
    """Check texts as Alpaca does; return whether each is kept, and the number of pairs that were scored."""
    known_words, kept, num_pairs = [split_words(text) for text in seeds], list[bool](), 0
    for text in texts:
        words = split_words(text)
        scores = [rouge_scorer._score_lcs(words, row).fmeasure for row in known_words]
        num_pairs += len(scores)
        kept.append(max(scores) <= LIMIT)
        if kept[-1]:
            known_words.append(words)
    return kept, num_pairs


def print_sizes(seeds: Sequence[str], texts: Sequence[str], seconds_per_pair: float) -> list[bool]:
    """Print a row for each size of the pool; return whether each text is kept."""
    print(f"{'texts':>8}{'kept':>8}{'pairs':>9}{'CPU s':>8}{'wall s':>8}{'rouge_score, h':>16}{'ratio':>8}{'MB':>6}")
    pool, kept, num_pairs, cpu, wall = NoveltyPool(seeds, LIMIT), list[bool](), 0, 0.0, 0.0
    for size in sorted({size for size in SIZES if size < len(texts)} | {len(texts)}):
        num_known = len(pool)
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        verdicts = pool.novel(texts[len(kept) : size])
        cpu, wall = cpu + time.process_time() - cpu_start, wall + time.perf_counter() - wall_start
        for verdict in verdicts:
            num_pairs += num_known
            num_known += verdict is None
            kept.append(verdict is None)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"{size:>8}{sum(kept):>8}{num_pairs:>9.1e}{cpu:>8.1f}{wall:>8.1f}"
            f"{seconds_per_pair * num_pairs / 3600:>16.1f}{seconds_per_pair * num_pairs / cpu:>8.0f}{peak:>6}",
            flush=True,
        )
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and whether the verdicts of both ways are equal."""
    parser = make_parser(__doc__)
    parser.add_argument("--most", type=int, default=50_000, help="Set the number of instructions.")
    parser.add_argument("--alpaca", type=int, default=300, help="Set the number of instructions for rouge_score.")
    args = parser.parse_args(arguments)
    rng = random.Random(0)
    seeds = [draw_instruction(rng) for _ in range(175)]
    texts = [draw_instruction(rng) for _ in range(args.most)]
    start = time.process_time()
    alpaca_kept, num_pairs = filter_by_rouge_score(seeds, texts[: args.alpaca])
    seconds_per_pair = (time.process_time() - start) / num_pairs
    lengths = [len(split_words(text)) for text in texts[:1000]]
    print(f"instructions of {sum(lengths) / len(lengths):.1f} words", end="; ")
    print(f"rouge_score takes {1e6 * seconds_per_pair:.0f} us per pair; {num_cpu_threads()} threads")
    kept = print_sizes(seeds, texts, seconds_per_pair)
    verdict = "equal" if alpaca_kept == kept[: len(alpaca_kept)] else "DIFFERENT"
    print(f"verdicts on the first {len(alpaca_kept)}: {verdict}")


if __name__ == "__main__":
    run_script(main)
