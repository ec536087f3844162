"""What a call runs on: its clock and deadline, files and locks, retries."""
