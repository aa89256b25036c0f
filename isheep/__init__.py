"""I-SHEEP (Liang et al. 2024): a base language model aligns itself from scratch."""

__version__ = "0.1.0"
