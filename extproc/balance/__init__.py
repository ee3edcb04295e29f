"""Which targets a request is to try, in which order, and what is known of each target's health."""
