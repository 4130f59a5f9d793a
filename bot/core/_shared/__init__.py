"""What several services need, written once. Nothing here imports a service."""
