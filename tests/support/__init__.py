"""Tools that tests share: a virtual clock, servers on free ports."""
