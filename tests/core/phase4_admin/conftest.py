"""The demonstration service as a host."""

from tests.service.conftest import own_service, service

__all__ = ["own_service", "service"]
