"""What several services need, written once. Nothing here imports a service."""

__version__ = "0.1.0"
