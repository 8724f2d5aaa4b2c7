"""The HTTP service: `pellucid serve` holds a restorer and answers requests, with the command line's bytes.

A picture's way: `bodies` takes it in, `codec` asks a process of its own for the header and then the pixels,
`engine` restores it in the one thread that has the network, `codec` writes it, `replies` sends it. `jobs` are
the same on a longer way, through `job_store`. `protection` stands before everything; what goes wrong becomes
a `problems` reply. `docs/service.md` tells operators what to set.
"""
