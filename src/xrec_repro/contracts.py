"""The columns of every Parquet file that one stage writes and another reads.

Two kinds of ids occur. ``user_id`` and ``item_id`` are the strings of the raw data. ``user`` and ``item`` are
dense int32 ids, given in order of first appearance by the k-core stage; they index embedding tables.
"""

import pyarrow as pa

INTERACTIONS = pa.schema(
    {
        "user_id": pa.string(),
        "item_id": pa.string(),
        "rating": pa.float32(),
        "timestamp": pa.int64(),  # seconds since 1970-01-01 UTC
        "review": pa.string(),
    }
)
ITEMS = pa.schema(
    {
        "item_id": pa.string(),
        "title": pa.string(),
        "description": pa.string(),
        "categories": pa.string(),  # comma-separated
        "city": pa.string(),
    }
)
# What a release brings along and raw data do not have: its own split of the graph, and written texts.
RELEASED_EDGES = pa.schema({"user_id": pa.string(), "item_id": pa.string(), "split": pa.string()})
RELEASED_TEXTS = pa.schema(
    {
        "user_id": pa.string(),
        "item_id": pa.string(),
        "split": pa.string(),
        "title": pa.string(),
        "user_profile": pa.string(),
        "item_profile": pa.string(),
        "reference": pa.string(),
    }
)
CORE_INTERACTIONS = pa.schema([("user", pa.int32()), ("item", pa.int32()), *INTERACTIONS])
CORE_ITEMS = pa.schema([("item", pa.int32()), *ITEMS])
GRAPH = pa.schema({"user": pa.int32(), "item": pa.int32(), "split": pa.string()})  # train | val | test
TEXTS = pa.schema(
    {
        "example_id": pa.string(),
        "user": pa.int32(),
        "item": pa.int32(),
        "user_id": pa.string(),
        "item_id": pa.string(),
        "split": pa.string(),
        "zero_shot": pa.bool_(),  # the user has no train edge in the graph
    }
)
USER_PROFILES = pa.schema({"user": pa.int32(), "profile": pa.string()})
ITEM_PROFILES = pa.schema({"item": pa.int32(), "profile": pa.string()})
REFERENCES = pa.schema({"example_id": pa.string(), "title": pa.string(), "reference": pa.string()})
# All that is known of a pair with a reference explanation, joined once: what every method reads.
EXAMPLES = pa.schema(
    [
        *TEXTS,
        ("title", pa.string()),
        ("user_profile", pa.string()),
        ("item_profile", pa.string()),
        ("reference", pa.string()),
        ("rating", pa.float32()),  # null where the data have none, as the next two
        ("timestamp", pa.int64()),
        ("feature", pa.string()),
    ]
)
# A method's training, one row a step: examples seen so far, and the mean loss of the step's own.
TRAINING = pa.schema({"step": pa.int32(), "examples": pa.int64(), "loss": pa.float64()})
EXPLANATIONS = pa.schema(
    {
        "example_id": pa.string(),
        "user_id": pa.string(),
        "item_id": pa.string(),
        "reference": pa.string(),
        "prediction": pa.string(),
        "rating": pa.float32(),  # as predicted, by a method that predicts ratings
        "prompt_tokens": pa.int32(),
        "new_tokens": pa.int32(),
        "finish_reason": pa.string(),  # bracket | eos | length
    }
)
# What a judge replied, one row an example in the order of the explanations; no row of a judge that failed on the way.
REPLIES = pa.schema(
    {
        "example_id": pa.string(),
        "reply": pa.string(),  # the last one, whole; null where probabilities are read, or nothing was asked
        "truncated": pa.bool_(),  # whether the reply was cut off; null likewise
        "asked": pa.int32(),  # replies asked for, 0 for a pair over the model's context; null for probabilities
        "number_mass": pa.float64(),  # where probabilities are read, that of all numbers
        "score": pa.float64(),  # null where none could be read
    }
)
# The glassbox's side file: read by scoring and by people, never by a model.
TRUTH = pa.schema(
    {
        "user_id": pa.string(),
        "item_id": pa.string(),
        "reasons": pa.list_(pa.string()),  # the true reasons of the interaction
        "named": pa.list_(pa.string()),  # those that the review names
        "in_profiles": pa.list_(pa.string()),  # those that an item description shows
    }
)
