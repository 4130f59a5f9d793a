"""A mirror bot on kurigram: it uploads what a link leads to, shows the progress, and posts news of RSS feeds.

API_ID=1 API_HASH=... BOT_TOKEN=123456:... ADMINS=42 python -m mirror_bot

It fetches whatever address a user names: run it where it reaches no server that users must not see.
"""
