"""Prompts, protocols, the simulated user, frozen prompt banks."""
