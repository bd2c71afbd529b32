"""Suites on Ray: plan, train, evaluate, resume."""
