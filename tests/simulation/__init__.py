"""Simulated worlds: instances of the library, their Redis and their network, all decided by a seed.

``loop`` has the event loop and its time, ``determined`` takes chance and clocks from a run, ``network``
carries bytes, ``redis_model`` answers them, ``faults`` breaks all of it, ``world`` runs a service among
them. After FoundationDB's simulation (Zhou et al., "FoundationDB: A Distributed Unbundled Transactional Key
Value Store", SIGMOD 2021, section 4).
"""
