"""Pictures read and written by processes that may take, break and answer nothing else."""
