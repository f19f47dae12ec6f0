"""`fraudline prove`: the promises of README, tried on the user's own Kafka and Redis.

`names` says what a run's things are called, `resources` makes and removes them; `history` lays traps, `plan` divides it
into sections; `processes` are generator and witness, `replicas` and `worker` the processors, `faults` what is done to
them; `run` is the order of it all. What was seen is `evidence`; `promises` are THE list, `judge` (with `judge_replay`,
`judge_alerts` and so on) and `latency` hold them to it, and `report` and `page` tell.
"""
