"""The report of a run: report.html, one self-contained file that opens offline; figures and tables of several runs."""
