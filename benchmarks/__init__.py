"""How fast this package is against Dagster's own floor, and against dagster-dbt; needs no account.

`python -m benchmarks` measures and writes docs/performance.md. It tests nothing; the tests do.
"""
