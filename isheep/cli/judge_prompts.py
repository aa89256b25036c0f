"""isheep judge-prompts: write MT-Bench's judge prompts without sending them."""

from pathlib import Path
from typing import Annotated

import typer


def judge_prompts(
    answers: Annotated[Path, typer.Argument(metavar="FILE", help="File model_answer of MT-Bench.", show_default=False)],
    data: Annotated[Path, typer.Option(help="FastChat's folder data/mt_bench.", show_default=False)],
    judge: Annotated[str, typer.Option(help="Judge whose reference answers are used.")] = "gpt-4",
    out: Annotated[Path | None, typer.Option(help="Output file (default: standard output).")] = None,
) -> None:
    """Write MT-Bench's judge prompts without sending them."""
    from isheep.evaluation import judgment_files

    if text := judgment_files.judge_prompts(answers, data, judge, out):
        print(text)
