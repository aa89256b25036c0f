"""The laboratory: the paper's claims, the contrasts that test them, their verdicts, and the page of findings."""
