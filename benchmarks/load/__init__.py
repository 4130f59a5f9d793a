"""Load on the running service: a workload like a bot's, a client that costs little, and what is watched."""
