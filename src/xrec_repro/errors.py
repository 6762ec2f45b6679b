"""Errors that a person can act on: one line that names the place and the remedy."""


class XRecError(Exception):
    """Base of all errors shown to the user as one line, without a traceback."""

    exit_code = 1


class ConfigError(XRecError):
    """A configuration that cannot be used: unknown key, wrong type, impossible combination."""

    exit_code = 2


class DataError(XRecError):
    """Input data that cannot be used: missing file, wrong column, malformed row, empty result."""


class ModelError(XRecError):
    """A model that cannot do what is asked: wrong width, unsupported form, prompt over its context."""
