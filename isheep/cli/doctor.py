"""isheep doctor: print versions, hardware and installed extras."""

from isheep.cli.output import print_line
from isheep.errors import UserError


def doctor() -> None:
    """Print versions, hardware and installed extras."""
    from isheep.cli import machine_report

    for name, value in machine_report.machine_report():
        print_line(f"{name:<14} {value}")
    if not machine_report.is_complete():
        raise UserError("a required package is missing: pip install isheep, or make setup in a clone")
