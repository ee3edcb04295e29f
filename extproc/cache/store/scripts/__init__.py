"""The Lua scripts that Redis runs."""
