"""Check and measure isheep on a machine with a GPU that has little but torch, transformers and accelerate.

    python -m benchmarks.gpu_check --prepare gpu-packages     # with a network: download the other packages
    python -m benchmarks.gpu_check --packages gpu-packages    # on the GPU machine: install them beside, and check
    python -m benchmarks.gpu_check --device cpu --tiny        # the same on a CPU

The loop runs once from end to end on lamb, in bfloat16 on CUDA: generation, ratings, training, evaluation of two
iterations. A second run is killed while it trains, and continued: its files are to be the same. Then benchmarks.gpu
measures the shapes of real models. The whole takes less than 8 minutes on a large GPU; `--tiny` measures a tiny shape
only. The exit code is 1 if a check fails.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import make_parser, run_script

ROOT = Path(__file__).parents[1]
PINNED_PACKAGES = ROOT / "requirements" / "demo.txt"
# What a machine with torch, transformers and accelerate has already, in versions that belong together.
PROVIDED = {
    "torch", "transformers", "accelerate", "tokenizers", "safetensors", "huggingface-hub", "hf-xet", "numpy", "regex",
    "tqdm", "packaging", "filelock", "fsspec", "jinja2", "markupsafe", "networkx", "sympy", "mpmath", "pyyaml",
    "requests", "typing-extensions", "setuptools", "psutil",
}  # fmt: skip
RUN = (
    *("run", "lamb", "synthesis.tasks=60", "iterations=2", "training.eval_every=1", "machine.report=false"),
    "filters=[{kind: contamination, ngram: null, rouge: null}, {kind: score, at_least: 2}]",
)
SHAPES = ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B")
# What a run writes that says when, and not what.
TIMES = ("run.jsonl", "lock", "manifest.json", "progress.json", "recipe.yaml")


def download_packages(folder: Path, python_version: str) -> None:
    """Download the pinned packages that a machine with torch and transformers lacks, as wheels."""
    lines = PINNED_PACKAGES.read_text(encoding="utf-8").splitlines()
    pins = [line.split()[0] for line in lines if "==" in line and not line.startswith((" ", "#"))]
    wanted = [pin for pin in pins if pin.partition("==")[0].lower().replace("_", "-") not in PROVIDED]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    platform = ["--only-binary", ":all:", "--python-version", python_version]
    subprocess.run([*pip, *platform, "--dest", str(folder), *wanted], check=True)
    print(f"{len(wanted)} packages in {folder}")


def install_packages(folder: Path, into: Path) -> None:
    """Install downloaded packages into a folder of their own, without a network."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(into), *map(str, sorted(folder.glob("*.whl")))], check=True)


def start_run(words: Sequence[str], out: Path) -> "subprocess.Popen[bytes]":
    """Start isheep's command line."""
    command = [sys.executable, "-c", "from isheep.cli import main; main()", *RUN, *words, "--out", str(out)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def finish_run(words: Sequence[str], out: Path) -> float:
    """Let a run end and return its seconds. Raises CalledProcessError if it fails."""
    start, process = time.monotonic(), start_run(words, out)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return time.monotonic() - start


def kill_while_training(words: Sequence[str], out: Path) -> None:
    """Start a run and kill it as soon as it trains its first adapter."""
    process = start_run(words, out)
    while process.poll() is None and not (out / "iter-1" / "adapter.part").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


def changed_files(first: Path, second: Path) -> list[str]:
    """Return the files of two runs that differ, without those that hold times."""
    runs = [
        {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()} for root in (first, second)
    ]
    names = sorted(name for name in runs[0].keys() | runs[1].keys() if Path(name).name not in TIMES)
    return [
        name
        for name in names
        if not all(name in run for run in runs) or runs[0][name].read_bytes() != runs[1][name].read_bytes()
    ]


def print_memory(run: Path) -> None:
    """Print the seconds and the peak memory of each stage of a run, from its events."""
    for line in (run / "run.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if "file" in event and event.get("peak_memory"):
            peaks = ", ".join(f"{name} {value / 2**20:.0f} MB" for name, value in event["peak_memory"].items())
            print(f"  {event['file']}: {event.get('seconds', 0):.1f} s, {peaks}")


def check_loop(device: str) -> list[str]:
    """Run the loop, kill and continue it, and return what is wrong."""
    words = [f"machine.device={device}", *(["machine.dtype=bfloat16"] if device != "cpu" else ["machine.threads=1"])]
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        print(f"two iterations of lamb on {device}: {finish_run(words, whole):.0f} s")
        print_memory(whole)
        kill_while_training(words, killed)
        print(f"the same, killed in its first training and continued: {finish_run(words, killed):.0f} s more")
        return [f"{name} differs after a kill" for name in changed_files(whole, killed)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Download the packages, or install them and run the checks and the measurements."""
    parser = make_parser(__doc__)
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="Download packages into a folder, nothing else.")
    parser.add_argument("--python", default="3.11", help="Set the GPU machine's Python, for --prepare.")
    parser.add_argument("--packages", type=Path, metavar="FOLDER", help="Install the packages of a folder first.")
    parser.add_argument("--device", default="cuda", help="Name the device, such as cuda or cpu.")
    parser.add_argument("--tiny", action="store_true", help="Measure a tiny shape only.")
    args = parser.parse_args(arguments)
    if args.prepare:
        download_packages(args.prepare, args.python)
        return
    with tempfile.TemporaryDirectory() as folder:
        # dill, with which datasets makes fingerprints, pickles modules of folders with other names by value.
        packages = Path(folder) / "site-packages"
        if args.packages:
            install_packages(args.packages, packages)
        run_checks(args, packages)


def run_checks(args: argparse.Namespace, packages: Path) -> None:
    """Run the checks with the packages of a folder beside those that are installed, and measure the shapes."""
    os.environ["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(packages)))
    faults = check_loop(args.device)
    print("\n".join(faults) or "the same bytes")
    shapes = ["tiny", "--steps", "1"] if args.tiny else [*SHAPES, "--steps", "3"]
    process = subprocess.run([sys.executable, "-m", "benchmarks.gpu", *shapes, "--device", args.device], cwd=ROOT)
    sys.exit(bool(faults) or process.returncode)


if __name__ == "__main__":
    run_script(main)
