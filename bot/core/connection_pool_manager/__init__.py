"""Connection pools over real databases."""
