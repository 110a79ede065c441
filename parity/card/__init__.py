"""What a config says: facts, memory, differences."""
