# From raw reviews to the tables and figures of the XRec reproducibility study. A table of contents: no logic here.
from snakemake.utils import min_version

min_version("9.27")


configfile: f"{workflow.basedir}/config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/profiles.smk"
include: "workflow/rules/examples.smk"
include: "workflow/rules/recommender.smk"
include: "workflow/rules/llm.smk"
include: "workflow/rules/method.smk"
include: "workflow/rules/scorers.smk"
include: "workflow/rules/metric_params.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/shown.smk"
include: "workflow/rules/paper.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/sweeps.smk"
include: "workflow/rules/audit.smk"


# Half a second each: on a cluster they run beside Snakemake, where submitting and watching them would take longer.
localrules:
    check_metrics,
    collect_jobs,
    make_table1,
    make_table2,
    make_table3,
    pick_examples,


rule all:
    default_target: True
    input:
        PAPER_FILES,
        rules.audit_published.output,
        rules.check_metrics.output,
