"""The exact response cache: when an answer may be kept, under which key, and as what. Pure: no I/O and no clock."""
