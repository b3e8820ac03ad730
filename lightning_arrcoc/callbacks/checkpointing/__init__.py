"""Behind `AtomicCheckpoint`: saving, keeping, asking for a save, and going on."""
