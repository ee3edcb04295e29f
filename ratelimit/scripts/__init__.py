"""Lua scripts for Redis, one file each."""
