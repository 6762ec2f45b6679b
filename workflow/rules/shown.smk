"""Rows and outputs of tables, figures and numbers, as the rules of paper, audit and sweeps name them."""

SHOWN = ("csv", "md", "png", "html")  # endings that the HTML report shows


def paper_inputs(experiments, *kinds):
    """Return the files of the rows of a table or figure as inputs by name."""
    return inputs(paper_paths(experiments, *kinds))


def paper_paths(experiments, *kinds):
    """Return kind -> the file of each row of a table or figure, None where it has none."""
    return PLAN.files(PLAN.rows(experiments), *kinds)


def shown(path, category):
    """Mark a file for the HTML report; its caption is workflow/report/<stem>.rst."""
    stem = Path(path).name.split(".")[0]
    return report(path, caption=str(WORKFLOW / f"workflow/report/{stem}.rst"), category=category)


def paper_files(stem, *endings, category):
    """Return the outputs of a rule of the paper stage by their ending, and its provenance."""
    files = {ending: f"{PAPER}/{stem}.{ending}" for ending in endings}
    marked = {ending: shown(path, category) if ending in SHOWN else path for ending, path in files.items()}
    return marked | {"provenance": f"{PAPER}/{stem}.provenance.json"}


def table_files(number):
    """Return the outputs of a table's rule."""
    return paper_files(f"tables/table{number}", "csv", "md", "tex", category="Tables")


def figure_files(stem, prefix=""):
    """Return the outputs of a figure's rule; a second figure of the same rule has a prefix and no provenance."""
    files = paper_files(f"figures/{stem}", "pdf", "png", category="Figures")
    return {prefix + name: path for name, path in files.items() if not prefix or name != "provenance"}


def figure_options(*stems):
    """Return how a rule's figures are set: with a caption or without, and the size of each, or None for its own."""
    chosen = config["paper"]["figures"]
    return {"captions": chosen["captions"], "sizes": {stem: chosen["sizes"].get(stem) for stem in stems}}
