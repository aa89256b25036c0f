"""Exporting an iteration's data or model out of a run."""

from enum import StrEnum


class ExportFormat(StrEnum):
    """The formats of `isheep export --as`: those of formats.FORMS, and a folder for LLaMA-Factory."""

    alpaca = "alpaca"
    sharegpt = "sharegpt"
    messages = "messages"
    paper = "paper"
    llamafactory = "llamafactory"
