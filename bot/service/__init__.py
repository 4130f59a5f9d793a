"""The runnable service: the host that shows the library at work and that a bot can start from."""
