lock: ## renew the hashed locks (no index address in them)
	$(VENV)/bin/pip-compile -q --upgrade $(LOCKFLAGS) --extra install -o requirements.lock pyproject.toml
