"""How far the trainings of a whole run are, and how people see it."""
