"""Write a student for other engines, prove each file, and run it."""
