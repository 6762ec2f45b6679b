"""Writes the pickles of this folder, with the pandas and NumPy of the Python that runs it.

For each pair of releases, in an environment of its own (pyarrow there where pandas can use it):

    python -m venv env; env/bin/pip install pandas==1.5.3 numpy==1.26.4; env/bin/python write_pickles.py

The files here are of pandas 1.5.3 and 2.0.3 with numpy 1.26.4, 2.2.3 with 2.2.6 and 3.1.1 with 2.4.6.
"""

import contextlib
import pickle
from pathlib import Path

import numpy as np
import pandas as pd

TEXTS = ["the cafe is quiet", "crème brûlée, 好", ""]


def frame() -> pd.DataFrame:
    """Return a frame with a column of every kind that frames of texts have."""
    columns = {
        "prediction": TEXTS,
        "reference": pd.Series([TEXTS[0], None, TEXTS[2]], dtype=object),
        "nullable_text": pd.array([TEXTS[0], None, TEXTS[2]], dtype="string"),
        "category": pd.Categorical(["a", "b", "a"]),
        "uid": [3, 1, 2],
        "small": np.array([3, 1, 2], dtype="uint8"),
        "nullable_int": pd.array([3, None, 2], dtype="Int64"),
        "score": [0.5, np.nan, 2.0],
        "nullable_score": pd.array([0.5, None, 2.0], dtype="Float64"),
        "good": [True, False, True],
        "nullable_good": pd.array([True, None, False], dtype="boolean"),
        "when": pd.to_datetime(["2020-01-01", "2021-06-30", None]),
        "when_utc": pd.to_datetime(["2020-01-01", "2021-06-30", None], utc=True),
    }
    with contextlib.suppress(ImportError):  # without a pyarrow that this pandas can use, nobody has such a column
        columns["arrow_text"] = pd.array([TEXTS[0], None, TEXTS[2]], dtype="string[pyarrow]")
    return pd.DataFrame(columns)


def main() -> None:
    """Write ``pandas-X-protocol-N.pkl``, a dict, and ``pandas-X-texts.pkl``, a frame as `to_pickle` writes it."""
    whole = frame()
    values = {
        "frame": whole,
        "rows": whole[whole["uid"] > 1],
        "by_time": whole.iloc[:2].set_index("when"),
        "by_score": whole.set_index("score"),
        "by_category": whole.set_index("category"),
        "series": whole["prediction"],
        "list": [str(text) for text in TEXTS],
        "numpy_texts": [np.str_(text) for text in TEXTS],
        "scalars": [np.float64(0.5), np.int32(3), pd.Timestamp("2020-01-01"), pd.NaT, pd.NA],
        "array": np.array(TEXTS),
    }
    stem = Path(__file__).with_name(f"pandas-{pd.__version__}")
    for protocol in (2, 4):
        Path(f"{stem}-protocol-{protocol}.pkl").write_bytes(pickle.dumps(values, protocol=protocol))
    whole.to_pickle(f"{stem}-texts.pkl")


if __name__ == "__main__":
    main()
