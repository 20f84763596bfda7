"""Does the cycle help, against what, by how much, and how sure is that?"""
