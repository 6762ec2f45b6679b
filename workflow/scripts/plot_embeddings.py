"""Draw the adapted embeddings of the test pairs' users and items."""

from xrec_repro.explainer.adapted import adapted_embeddings
from xrec_repro.job import Job
from xrec_repro.paper.embeddings import figure_embeddings, known_clusters
from xrec_repro.scores import attach

with Job(snakemake) as job:
    rows = [row for row in attach(job.settings["rows"], job.params.files) if row["weights"]]
    points, kinds, ids = adapted_embeddings(rows)
    truth, glassbox = rows[0]["truth"], job.settings["glassbox"]
    clusters = known_clusters(kinds, ids, truth, glassbox[rows[0]["dataset"]]) if truth else None
    caption = figure_embeddings(points, kinds, job.output.pdf, job.output.png, job.settings, clusters)
    job.result = {"caption": caption}
