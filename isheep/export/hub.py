"""Upload a model or the data of an iteration to the Hugging Face Hub with huggingface_hub."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from isheep.errors import UserError, one_line
from isheep.export import ExportFormat, ExportRows
from isheep.export.card_parts import CardOptions
from isheep.export.formats import CARD_FILE
from isheep.export.iteration import export_adapter, export_checkpoint, export_dataset
from isheep.export.secrets import check_files
from isheep.report import REPORT_FILE

Published = Literal["adapter", "merged", "dataset"]
"""What is uploaded."""

REPO_NAME = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)

REFUSALS = {
    401: "the Hub does not know the token (401): log in again with hf auth login, or correct HF_TOKEN",
    403: "the token may not write to {repo} (403): take a token with the permission to write, or another --repo",
    404: "the Hub has no {repo}, or the token can't see it (404): correct --repo",
    409: "the Hub was changing {repo} at the same time (409): give the same command again",
    429: "the Hub has had too many requests (429): give the same command again later",
}
"""What a status of the Hub means and what helps; other ones are errors of the Hub."""


class Upload(NamedTuple):
    """A folder that is ready to be uploaded. `repo_type` is "model" or "dataset"."""

    folder: Path
    repo: str
    repo_type: str

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    @property
    def card(self) -> str:
        return (self.folder / CARD_FILE).read_text(encoding="utf-8")

    @property
    def url(self) -> str:
        """The address of the repository."""
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        return f"{endpoint}/{'datasets/' if self.repo_type == 'dataset' else ''}{self.repo}"


def prepare_upload(
    run_dir: Path,
    published: Published,
    iteration: int | None,
    options: CardOptions,
    export_format: ExportFormat = ExportFormat.alpaca,
    rows: ExportRows = ExportRows.kept,
    with_report: bool = True,
) -> Upload:
    """Write what is to be uploaded into a folder of the run, in place of that of an earlier call, and check it.

    Raises UserError if the repository's name is none, or if a file holds a secret or the path of the home folder.
    """
    repo = options.repo or ""
    if not REPO_NAME.fullmatch(repo):
        raise UserError(f"--repo {repo} is no name of a repository: give OWNER/NAME")
    folder = run_dir / "export" / f"push-{published}"
    shutil.rmtree(folder, ignore_errors=True)
    if published == "dataset":
        export_dataset(run_dir, export_format, rows, iteration, folder, options)
    else:
        write_model = export_adapter if published == "adapter" else export_checkpoint
        write_model(run_dir, iteration, folder, options)
    checked: list[Path] = []
    if with_report and (run_dir / REPORT_FILE).is_file():
        shutil.copyfile(run_dir / REPORT_FILE, folder / REPORT_FILE)
        # The report holds rows of these files in a compressed form, in which nothing can be found.
        checked = [*run_dir.glob("iter-*/*.jsonl"), *run_dir.glob("iter-*/eval/*/*.jsonl")]
    upload = Upload(folder, repo, "dataset" if published == "dataset" else "model")
    check_files([*upload.files, *checked], os.environ, _token(), Path(os.path.expanduser("~")))
    return upload


def upload_folder(upload: Upload, private: bool) -> str:
    """Make the repository if there is none, upload the folder in one commit, and return the address of the commit.

    Files that an interrupted call has uploaded are not uploaded again. Raises UserError in one line if the Hub refuses
    or can't be reached. The token is that of HF_TOKEN or of the login; it is never printed.
    """
    from huggingface_hub import HfApi

    if _token() is None:
        raise UserError("there is no token for the Hugging Face Hub: log in with hf auth login, or set HF_TOKEN")
    with _hub_errors(upload):
        api = HfApi()
        api.create_repo(upload.repo, repo_type=upload.repo_type, private=private or None, exist_ok=True)
        commit = api.upload_folder(
            repo_id=upload.repo,
            repo_type=upload.repo_type,
            folder_path=upload.folder,
            commit_message="Upload with isheep",
        )
    return str(commit.commit_url)


def _token() -> str | None:
    from huggingface_hub import get_token

    token: Any = get_token()
    return str(token) if token else None


@contextlib.contextmanager
def _hub_errors(upload: Upload) -> Iterator[None]:
    """Turn errors of the Hub, and of the way to it, into one line that says what helps."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    again = "give the same command again; what has been uploaded is not uploaded again"
    try:
        yield
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set, and an upload needs the Hub: unset it") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        failed = f"the Hub failed ({status}): {again}"
        raise UserError(REFUSALS.get(status, failed).format(repo=upload.repo)) from error
    except (HTTPError, OSError) as error:
        raise UserError(f"the Hub can't be reached at {upload.url} ({one_line(error)}): {again}") from error
    # huggingface_hub raises these for a card that the Hub refuses, and for a file that could not be uploaded.
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the upload to {upload.repo} failed ({one_line(error)}): {again}") from error
