"""Secrets in memory: pages locked against swap and excluded from dumps, and a type that cannot be printed."""
