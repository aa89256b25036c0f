"""The notebook in examples/ runs from the first cell to the last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "alignment.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "save it without outputs"
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    # What a cell prints on stderr, such as the progress, comes between its lines at any place.
    printed = [
        "".join(output["text"] for output in cell.get("outputs", []) if output.get("name") == "stdout")
        for cell in notebook.cells
    ]
    assert any(text.startswith("M^0 of ") and "right 0." in text for text in printed)
