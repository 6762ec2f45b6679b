"""Recommenders, by name: see `base` for the contract, `xrec_repro.plugins` for the finding."""

from xrec_repro.plugins import Room
from xrec_repro.recommenders.base import Recommender

RECOMMENDERS = Room("recommenders", "RECOMMENDER", Recommender)
