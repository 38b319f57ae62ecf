"""Arrays in, arrays out: the arithmetic that the stages share. No model and no framework in sight."""
