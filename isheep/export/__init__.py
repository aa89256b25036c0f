"""Export of an iteration's data or model out of a run."""

from enum import StrEnum


class ExportFormat(StrEnum):
    """The formats of `isheep export --as`: those of formats.FORMATS, a LLaMA-Factory folder, the model as GGUF."""

    alpaca = "alpaca"
    sharegpt = "sharegpt"
    messages = "messages"
    paper = "paper"
    llamafactory = "llamafactory"
    gguf = "gguf"


class ExportRows(StrEnum):
    """The rows of `isheep export --rows`: the pairs that the filters kept, or those of them that were trained on."""

    kept = "kept"
    trained = "trained"
