"""What is done to objects so that they run where and how they were asked to: the decision applied, and kept."""
