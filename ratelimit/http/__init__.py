"""What the service answers over HTTP: to clients and balancers (`api`), to who operates it (`debug`, `operator`)."""
