"""What several tests share: real programs, started and stopped."""
