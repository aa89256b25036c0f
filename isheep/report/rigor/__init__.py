"""The rigor sheet: the items of a methodological review, each answered from what run folders hold, or "not done".

Each item is a plain function of the evidence that returns an answer; `items.ITEMS` lists them. An item is answered only
from files of the run folders, and its figures are those of the report and of `isheep compare`.
"""
