"""Write the pictures of the README: the rules of the demo (needs graphviz' dot) and table 1 of a finished demo."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
TABLE = ROOT / "results/demo/paper/tables/table1.csv"
LEFT_OUT = ("dataset", "model", "source", "n", "signature", "rank", "seeds", "sd")


def draw_rules() -> None:
    """Draw the graph of rules with dot."""
    snakemake = Path(sys.executable).with_name("snakemake")
    graph = subprocess.run(
        [snakemake, "--rulegraph", "dot", "all"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    picture = graph.stdout[graph.stdout.index("digraph") :]
    subprocess.run(["dot", "-Tpng", "-Gdpi=80", "-o", IMAGES / "dag.png"], input=picture, text=True, check=True)


def draw_table() -> None:
    """Draw the measured rows of table 1."""
    with TABLE.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = [name for name in rows[0] if not any(part in name for part in LEFT_OUT) and any(r[name] for r in rows)]
    cells = [[row["model"], row["n"], *(f"{float(row[c]):.4f}" if row[c] else "–" for c in columns)] for row in rows]
    figure, axes = plt.subplots(figsize=(1.35 * (len(columns) + 2), 0.45 * (len(rows) + 2)))
    axes.axis("off")
    table = axes.table(cells, colLabels=["model", "N", *columns], loc="center", cellLoc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.auto_set_column_width(range(len(columns) + 2))
    table.scale(1, 1.4)
    for (row, _), cell in table.get_celld().items():
        cell.visible_edges = "B" if row else "TB"
    figure.savefig(IMAGES / "table1.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    if shutil.which("dot"):
        draw_rules()
    else:
        print("docs: dot (graphviz) is not installed, docs/images/dag.png is left as it is")
    if TABLE.is_file():
        draw_table()
    else:
        print("docs: run make demo first, docs/images/table1.png is left as it is")
