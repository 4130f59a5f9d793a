"""What the tests of a bot need; nothing is imported until it is used."""
