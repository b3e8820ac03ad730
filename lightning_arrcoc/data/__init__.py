"""Visual questions: sources, collation and loaders."""
