"""Mutants of the most important modules, and whether their tests notice."""
