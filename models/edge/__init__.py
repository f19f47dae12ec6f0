"""Scores a bundle without XGBoost, Kafka, Redis or a network: numpy and numba are all that it needs.

It is a part of Fraudline, and also a distribution of its own, `fraudline-edge`, in which it is called `fraudline_edge`.
"""

from .scorer import EdgeError, EdgeModel, Tier, load

__all__ = ["EdgeError", "EdgeModel", "Tier", "load"]
