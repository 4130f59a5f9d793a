"""Phase 4 in a bot's own folder: put in, upgraded, taken out. Needs the standard library only."""
