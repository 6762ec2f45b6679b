"""Metrics, by name: see `base` for the contract, `xrec_repro.plugins` for the finding."""

from xrec_repro.metrics.base import Metric
from xrec_repro.plugins import Room

METRICS = Room("metrics", "METRIC", Metric)
