"""The published material against itself and the released data: it reads no run."""

AUDITED = [
    "hardware.tsv",
    *(f"published/{path.name}" for path in sorted(Path(PLAN.resources, "published").glob("*.csv"))),
]


rule audit_published:
    input:
        published=resource_inputs(*AUDITED),
    output:
        json=f"{PLAN.audit}/audit.json",
        md=shown(f"{PLAN.audit}/audit.md", "Claims and audit"),
        provenance=f"{PLAN.audit}/audit.provenance.json",
    log:
        f"{PLAN.audit}/logs/audit_published.log",
    benchmark:
        f"{PLAN.audit}/benchmarks/audit_published.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(20),
    params:
        settings=config["paper"]["audit"],
        resources=Told(PLAN.resources),
        published=PLAN.resource_digests(*AUDITED),
        code=PLAN.digest("audit_published"),
    script:
        "../scripts/audit_published.py"
