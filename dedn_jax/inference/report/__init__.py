"""Reports of finished runs: numbers, tables, figures and one page that needs nothing else."""
