"""What a sweep has on disk."""
