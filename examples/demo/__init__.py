"""What ``make example`` plays: a server in place of Telegram, users who write, and a bot of this folder."""
