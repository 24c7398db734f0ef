"""A soak: a real site under mixed load while it is restarted, reloaded and changed at random.

    python -m benchmarks.soak --seconds 120 [--adapter cheroot] [--seed N]

`wire` is HTTP on raw sockets, `talk` a WebSocket on one, `clients` who asks in which manner,
`tally` what became of it, `applications` what is asked, `site` the process that serves, `events`
what is done to it meanwhile, `run` one soak from start to verdict. The clients and the applications
serve tests as well.
"""
