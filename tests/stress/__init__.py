"""Long runs, great numbers and hostile timing."""
