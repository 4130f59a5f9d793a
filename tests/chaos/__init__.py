"""The whole library under faults: three instances, real servers, a seeded plan, and checks of what they did.

``make chaos SECONDS=600 SEED=7``. ``plan`` draws the faults, ``faults`` makes them happen, ``load`` asks and
writes down every answer, ``ledger`` is what the instances write down, ``oracles`` knows what is allowed.
"""
