"""Draw figure 2 with full and with zoomed axes."""

from xrec_repro.comparable import Comparable
from xrec_repro.io import read_json
from xrec_repro.job import Job
from xrec_repro.paper.ablation import figure2
from xrec_repro.published import load_published_table1, load_published_table2
from xrec_repro.scores import attach, with_intervals, with_summaries

with Job(snakemake) as job:
    rows = with_summaries(attach(job.settings["rows"], job.params.files))
    rows = with_intervals(rows, read_json(job.input.statistics))
    published = [*load_published_table1(job.params.resources), *load_published_table2(job.params.resources)]
    comparable = Comparable(job.params.resources)
    full, zoomed = (job.settings | {"axes": axes} for axes in ("full", "zoomed"))
    job.result = {
        "full": figure2(rows, published, job.output.pdf, job.output.png, full, comparable),
        "zoomed": figure2(rows, published, job.output.zoomed_pdf, job.output.zoomed_png, zoomed, comparable),
    }
