"""What was measured, drawn: nothing here measures, and matplotlib is imported when it draws."""
