"""The Phase 4 services. Importing this package imports none of them."""
