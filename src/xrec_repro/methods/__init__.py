"""Methods that explain recommendations, by name: see `base` for the contract, `xrec_repro.plugins` for the finding."""

from xrec_repro.methods.base import Method
from xrec_repro.plugins import Room

METHODS = Room("methods", "METHOD", Method)
