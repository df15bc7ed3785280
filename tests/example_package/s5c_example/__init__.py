"""What s5c does not have: a method, a task and a family, found by the entry points in pyproject.toml."""
