"""Mutants of the modules that decide, and whether their tests notice."""
