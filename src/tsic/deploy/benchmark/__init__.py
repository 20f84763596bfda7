"""Speed of a student in every engine of this machine, measured in turns."""
