"""Pictures by the million, on a Ray cluster, between stores of files that all its machines reach.

`storage` reads and writes by URL; `inputs` finds the pictures; `report` keeps what was done, as Parquet
beside them; `worker` restores a block of pictures in one process; `run` spreads blocks over the cluster. Only
`run` imports Ray.
"""
