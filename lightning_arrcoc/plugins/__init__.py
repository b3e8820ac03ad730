"""Plugins for any Lightning project."""
