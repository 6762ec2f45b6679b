"""Profiles of users and items, and reference explanations: published, extracted or written by a chat model."""
