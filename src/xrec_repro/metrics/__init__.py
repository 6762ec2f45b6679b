"""Scores of generated explanations: one contract, one module a metric, a signature with every number."""
